"""Big data in shared memory: blocks of files without names, written by one process and looked at by another.

    blocks   where there is room (pure)           segment  the owner's side: takes blocks and writes them
    mapping  a file in memory, piece by piece     reader   the other side: objects that look at a block
    parcel   pickles whose large parts lie in blocks           shared   one copy for all, read-only

A block is taken, written once, and handed over by its number. It is free when nobody can look at it any more: each who
can holds a *lease* of it, and what counts is that the last one is gone (Python's own reference counts). Nothing here
imports anything else of ours.
"""
