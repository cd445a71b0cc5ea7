from potstill.cli import main


def potstill(*arguments):
    """Run the command line in this process; return its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return exit_.code
    return 0
