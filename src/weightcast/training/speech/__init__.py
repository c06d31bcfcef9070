"""Speech: recordings to frames of features with context, and the error of whole recordings.

Read in this order: ``audio``, ``features``, ``corpus``, ``digits``, ``phones``, ``timit``,
``viterbi``, ``scoring``, ``settings``.
"""

from weightcast.training.speech.audio import read_audio
from weightcast.training.speech.corpus import Corpus, Recording, stack_context, to_images
from weightcast.training.speech.digits import read_digits
from weightcast.training.speech.features import FeatureSettings, log_mel
from weightcast.training.speech.phones import FOLDED, PHONES, fold
from weightcast.training.speech.scoring import digit_error, edit_distance, phone_error
from weightcast.training.speech.settings import SpeechConfig
from weightcast.training.speech.timit import read_timit
from weightcast.training.speech.viterbi import Bigram, viterbi

__all__ = [
    "FOLDED",
    "PHONES",
    "Bigram",
    "Corpus",
    "FeatureSettings",
    "Recording",
    "SpeechConfig",
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
