"""``weightcast``, killed at a chosen moment: ``python killed_training.py MOMENT train ...``.

MOMENT is ``list:N``, after the N-th list of batches, or, at the N-th checkpoint, ``write:N`` with
half of its bytes written, ``rename:N`` before and ``renamed:N`` after it has its name; ``never`` is
the command as it is, and ``interrupt:N`` sends it Ctrl-C at the N-th list. SIGKILL goes to all
processes of the session: the machine dies.
"""

import os
import signal
import sys

from weightcast import files
from weightcast.cli.main import main
from weightcast.integrations import lightning as checkpoint_io
from weightcast_lab.training.module import Classifier


def die():
    os.killpg(0, signal.SIGKILL)


def at(number, function, *, before=False):
    """The function, but its call of this number is the last thing that happens."""
    calls = iter(range(1, 10**6))

    def call(*args, **options):
        last = next(calls) == number
        if last and before:
            die()
        result = function(*args, **options)
        if last:
            die()
        return result

    return call


def save_half(tensors, path, metadata):
    save_file(tensors, path, metadata)
    os.truncate(path, path.stat().st_size // 2)


save_file = checkpoint_io.save_file


class Renames:
    """The module ``os``, but for the renaming of checkpoints."""

    def __init__(self, replace):
        self._replace = replace

    def __getattr__(self, name):
        return getattr(os, name)

    def replace(self, source, target):
        rename = self._replace if target.suffix == ".ckpt" else os.replace
        rename(source, target)


if __name__ == "__main__":
    moment, _, number = sys.argv[1].partition(":")
    if os.environ.get("LOCAL_RANK", "0") == "0":  # and not the process that helps
        match moment:
            case "list":
                Classifier.training_step = at(int(number), Classifier.training_step)
            case "interrupt":
                step = Classifier.training_step
                calls = iter(range(1, 10**6))

                def interrupted(*args):
                    if next(calls) == int(number):
                        signal.raise_signal(signal.SIGINT)
                    return step(*args)

                Classifier.training_step = interrupted
            case "write":
                whole_file, half_file = save_file, at(1, save_half)
                writers = iter([*[whole_file] * (int(number) - 1), half_file])
                checkpoint_io.save_file = lambda *args: next(writers)(*args)
            case "rename" | "renamed":
                files.os = Renames(at(int(number), os.replace, before=moment == "rename"))
    sys.exit(main(sys.argv[2:]))
