"""Speech: recordings to frames of features with context, and the error of whole recordings.

Read in this order: ``audio``, ``features``, ``corpus``, ``digits``, ``phones``, ``timit``,
``viterbi``, ``scoring``.
"""

from weightcast_lab.data.speech.audio import read_audio
from weightcast_lab.data.speech.corpus import Corpus, Recording, stack_context, to_images
from weightcast_lab.data.speech.digits import read_digits
from weightcast_lab.data.speech.features import FeatureSettings, log_mel
from weightcast_lab.data.speech.phones import FOLDED, PHONES, fold
from weightcast_lab.data.speech.scoring import digit_error, edit_distance, phone_error
from weightcast_lab.data.speech.timit import read_timit
from weightcast_lab.data.speech.viterbi import Bigram, viterbi

__all__ = [
    "FOLDED",
    "PHONES",
    "Bigram",
    "Corpus",
    "FeatureSettings",
    "Recording",
    "digit_error",
    "edit_distance",
    "fold",
    "log_mel",
    "phone_error",
    "read_audio",
    "read_digits",
    "read_timit",
    "stack_context",
    "to_images",
    "viterbi",
]
