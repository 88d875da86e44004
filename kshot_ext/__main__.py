"""`python -m kshot_ext`: the command, also for launchers that start modules, such as `torchrun -m`."""

from kshot_ext.cli import main

if __name__ == "__main__":
    main()
