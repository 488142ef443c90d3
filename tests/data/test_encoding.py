"""Batches of two splits that are read in one pass."""

from hypothesis import given
from hypothesis import strategies as st

from headwise.data import encoding
from headwise.data.encoding import text_batches
from headwise.tokenizer import Piece

DOCUMENTS = st.lists(st.tuples(st.sampled_from(["train", "val"]), st.text("ab\n", max_size=40)), max_size=30)


@given(documents=DOCUMENTS)
def test_batches_of_a_split_do_not_depend_on_the_other_split(documents):
    size, encoding.BATCH = encoding.BATCH, 53
    try:
        labelled = [(split, Piece(text, ends_document=True)) for split, text in documents]
        both = list(text_batches(labelled))
        for split in ("train", "val"):
            alone = list(text_batches(item for item in labelled if item[0] == split))
            assert [batch for batch in both if batch.split == split] == alone
            assert [piece for batch in alone for piece in batch.pieces] == [p for s, p in labelled if s == split]
            assert [batch.start for batch in alone] == [sum(b.characters for b in alone[:i]) for i in range(len(alone))]
    finally:
        encoding.BATCH = size
