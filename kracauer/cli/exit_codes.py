"""What the exit status of a command says; docs/reference/exit-codes.md explains each."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Every exit status this program ends with on purpose."""

    OK = 0
    CONFIG_PROBLEMS = 1  # check-config, reload: the file has problems
    USAGE = 2  # the command line is wrong
    CONFIG_UNUSABLE = 3  # run: no usable configuration
    DEVICE = 4  # no privileges, or no TUN device
    NETWORK = 5  # addresses, routes or rules could not be set up
    DEVICE_LOST = 6  # the device went away while running
    ALREADY_RUNNING = 7  # run: another process serves with this device
    NOT_RUNNING = 8  # reload, stop, status: nobody serves with this device
    WORKERS = 9  # run: worker processes could not be started
    UNAVAILABLE = 69  # a package that this command needs is not installed (EX_UNAVAILABLE of sysexits.h)
    INTERNAL = 70  # a mistake in this program (EX_SOFTWARE)
    NO_ANSWER = 75  # the service did not answer, or not end, in time (EX_TEMPFAIL)
    NOT_PERMITTED = 77  # this user may not ask the service (EX_NOPERM)
    INTERRUPTED = 130  # as shells report SIGINT
    OUTPUT_CLOSED = 141  # as shells report SIGPIPE
