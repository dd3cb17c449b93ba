"""What holds for all tests."""

import signal

from hypothesis import settings

# How long one example takes says more of what else the machine does than of the code; pytest's timeout bounds a test.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
