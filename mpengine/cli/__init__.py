"""The command line, over the public names of mpengine only.

    main.py      the entry: signals first, then all the rest is imported
    commands.py  what can be typed: commands, options, help; the last net for errors
    run.py       one run from its start to its exit code
    inputs.py    the INPUT arguments: globs, checks, names -> sources
    readers.py   sources -> jobs, drawn as slots become free
    targets.py   TARGET -> a callable that finds its way into the workers
    records.py   an outcome -> a line
    writer.py    lines -> OUT, each whole
    streams.py   the standard streams, kept apart from what jobs and targets print and read
    signals.py   Ctrl-C and SIGTERM as a wish to stop, and a way to wait for it
    problems.py  what the user can put right, as one line

Workers import ``targets`` and ``readers``: neither imports click or rich.
"""
