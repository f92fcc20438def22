"""Exports three versions of a spam filter that takes raw text, and a second model that counts words.

    python -m examples.spam.make_models DIRECTORY

The text is split and folded inside the graph, so clients send strings: by the ops of tensorflow_text where that package can be imported
(the server finds their libraries in the installed package by itself), by TensorFlow's own string ops where it cannot. Beware of
tensorflow-text 2.21.0, which no process can import (its ICU data are missing); 2.21.1 is well.

Version 1 has learnt from four mails and takes upper case for other words; 2 folds case; 3 has learnt from more mails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUCKETS = 1 << 12
SPAM = (
    "win money now", "free prize claim now", "cheap pills free offer", "you won a lottery claim your prize", "limited offer act now",
    "earn cash fast from home", "free free free click here", "urgent transfer of money",
)  # fmt: skip
HAM = (
    "lunch at noon tomorrow", "the meeting moved to friday", "please review my patch", "see you at the station", "notes from the meeting",
    "can you send the report", "happy birthday to you", "the train is late again",
)  # fmt: skip


def main(directory: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    split, fold = string_ops(tf)

    class Filter(tf.Module):  # type: ignore[misc]
        """A weight per hashed word; the sum through a sigmoid."""

        def __init__(self, folds: bool) -> None:
            super().__init__()
            self.weights = tf.Variable(tf.zeros([BUCKETS]))
            self.folds = folds

        def scores(self, text: Any) -> Any:
            words = split(fold(text) if self.folds else text)
            ids = tf.strings.to_hash_bucket_fast(words, BUCKETS)
            weights = tf.ragged.map_flat_values(tf.gather, self.weights, ids)
            return tf.sigmoid(tf.reduce_sum(weights, axis=1))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text: Any) -> dict[str, Any]:
            scores = self.scores(text)
            return {"score": scores, "verdict": tf.where(scores > 0.5, "spam", "ham")}

    def train(model: Any, texts: Sequence[str], labels: Sequence[float]) -> None:
        for _ in range(60):
            with tf.GradientTape() as tape:
                scores = model.scores(tf.constant(texts))
                loss = tf.reduce_mean(tf.keras.losses.binary_crossentropy(tf.constant(labels), scores))
            model.weights.assign_sub(4.0 * tf.convert_to_tensor(tape.gradient(loss, model.weights)))

    class Words(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text: Any) -> dict[str, Any]:
            return {"words": split(text).row_lengths()}

    for version, folds, mails in ((1, False, 2), (2, True, 2), (3, True, len(SPAM))):
        model = Filter(folds)
        train(model, [*SPAM[:mails], *HAM[:mails]], [1.0] * mails + [0.0] * mails)
        tf.saved_model.save(model, fresh(directory / "spam" / str(version)), {"serving_default": model.serve})
    words = Words()
    tf.saved_model.save(words, fresh(directory / "words" / "1"), {"serving_default": words.serve})


def string_ops(tf: Any) -> tuple[Any, Any]:
    """(split, fold): from strings [n] to ragged words, to lower case."""
    try:
        import tensorflow_text as tf_text
    except ImportError as error:
        print(f"no tensorflow_text ({error}): splitting and folding by TensorFlow's own string ops")
        return tf.strings.split, lambda text: tf.strings.lower(text, "utf-8")
    print("splitting and folding by tensorflow_text")
    return tf_text.WhitespaceTokenizer().tokenize, tf_text.case_fold_utf8


def fresh(path: Path) -> str:
    shutil.rmtree(path, ignore_errors=True)
    return str(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
