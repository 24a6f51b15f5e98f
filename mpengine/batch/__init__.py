"""A batch from files to a file, or to one for each: records in, results out, and a journal to go on from.

    input file ─ reading ─▶ payload ─ engine ─▶ `Work` in a worker: decode, the user's function, encode ─▶ blob
    OUT ◀─ sink ◀─ order ◀─ recorder ◀─ blob          journal ◀─ recorder (after OUT, so never ahead of it)

A payload is what the parent has cut out of the input and not looked into; a blob is a result as it is written. So what
can be done in a worker is done there, and one bad record is that record's failure.
"""
