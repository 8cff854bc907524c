"""The length of a training from one number, and seeds that tell teachers apart."""

from nnunet_kd.utilities.errors import UserError

LONGEST_EPOCH, FEWEST_EPOCHS = 250, 20  # nnU-Net's iterations per epoch; the learning rate falls once an epoch
LARGEST_SEED = 2**32 - 1


def settings_of_length(iterations: int | None) -> tuple[str, ...]:
    """``KEY=VALUE`` of a schedule: epochs of at most 250 iterations, and at least 20 of them.

    The total is rounded to whole epochs, by less than 3 % from 20 iterations on. As in nnU-Net, an epoch validates on a
    fifth as many patches.

    Args:
        iterations: of the whole training; None: nothing is said about its length.

    Raises:
        UserError: for less than one iteration.
    """
    if iterations is None:
        return ()
    if iterations < 1:
        raise UserError(f"--iterations {iterations}: expected at least 1.")
    length = min(LONGEST_EPOCH, max(1, iterations // FEWEST_EPOCHS))
    return (
        f"schedule.num_epochs={round(iterations / length)}",
        f"schedule.iterations_per_epoch={length}",
        f"schedule.val_iterations_per_epoch={max(1, length // 5)}",
    )


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Reads ``1,2,3``.

    Raises:
        UserError: for what is no list of different seeds.
    """
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    seeds = tuple(int(w) for w in words if w.isascii() and w.isdecimal() and int(w[:20]) <= LARGEST_SEED)
    if not len(words) == len(seeds) == len(set(seeds)):
        raise UserError(f"--seeds {text}: expected different whole numbers from 0 to {LARGEST_SEED}, as in 1,2,3.")
    return seeds
