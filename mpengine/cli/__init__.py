"""The command line, over the public names of mpengine only.

    main.py      the entry: signals first, then all the rest is imported
    commands.py  what can be typed: commands, options, help; the last net for errors (bench_command.py: those of bench)
    typed.py     what options say, made of what was typed
    run.py       one run from its start to its exit code
    inputs.py    the INPUT arguments: globs, checks, names -> sources
    readers.py   sources -> jobs, drawn as slots become free
    targets.py   TARGET -> a callable that finds its way into the workers
    records.py   an outcome -> a line
    writer.py    lines -> OUT, each whole
    streams.py   the standard streams, kept apart from what jobs and targets print and read
    signals.py   Ctrl-C and SIGTERM as a wish to stop, and a way to wait for it
    problems.py  what the user can put right, as one line

    bench.py     the speed-up over 1, 2, ... workers, from its start to its table (bench_json.py, bench_progress.py)
    measuring.py one measurement: a batch through an engine, or through the plain loop of loop.py
    machine.py   what it was measured on, and who else was at work there
    result_files.py  files that are written when all is done

Workers import ``targets``, ``readers`` and ``loop``: none of them imports click or rich.
"""
