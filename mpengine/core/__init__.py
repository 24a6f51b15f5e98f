"""The pure core: events and the time in, decisions out. No process, pipe, clock or thread is known here."""
