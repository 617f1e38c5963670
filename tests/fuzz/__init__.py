"""Fuzzing: what strangers may hand to the program, changed at random, and what it may answer.

    make fuzz                                              # two minutes over all targets; FUZZ_SECONDS, FUZZ_SEED
    PYTHONPATH=tests python -m fuzz --target images --seconds 60
    PYTHONPATH=tests python -m fuzz --target images --file fuzz-faults/images-....png

Each target (`target`) is a module: how files are changed, by `mutations`, what reads them, and what must hold.
`campaign` runs cases in processes of their own, with a limit on time and memory, and keeps the files that show a fault.
"""
