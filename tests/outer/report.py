"""Steps of a suite, what came of them, and the exit code."""

import random
import sys
import time
import traceback


class Failure(Exception):
    """What was found is not what was promised."""


def check(holds, message):
    """Ends the step when something does not hold."""
    if not holds:
        raise Failure(message)


def wait_until(what, seconds, condition, every=0.05):
    """Waits until the condition is true, and answers after how many seconds that was."""
    started = time.monotonic()
    while True:
        # Looked at before: this process may stand still too, and looks once more then.
        is_late = time.monotonic() - started > seconds
        if condition():
            return time.monotonic() - started
        if is_late:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(every)


class Suite:
    """Runs steps one after the other; a failed one does not keep the next from running."""

    def __init__(self, name, seed=None):
        self.name = name
        self.seed = seed if seed is not None else random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        self.passed = 0
        self.failed = 0
        say(f"== {name}, seed {self.seed}")

    def step(self, name, function, *arguments):
        """Runs one step; it may answer a remark to be shown. Answers whether it passed."""
        started = time.monotonic()
        try:
            remark = function(*arguments)
        except Exception as error:  # noqa: BLE001 - any end of a step is a result
            self.failed += 1
            say(f"FAILED {name} ({time.monotonic() - started:.1f} s): {error}")
            if not isinstance(error, Failure):
                traceback.print_exc(file=sys.stdout)
            return False
        self.passed += 1
        say(f"ok     {name} ({time.monotonic() - started:.1f} s)" + (f": {remark}" if remark else ""))
        return True

    def end(self):
        """Prints the sum as the last line; answers the exit code."""
        say(f"{self.passed} passed, {self.failed} failed")
        return 0 if self.failed == 0 and self.passed > 0 else 1


def say(text):
    print(text, flush=True)
