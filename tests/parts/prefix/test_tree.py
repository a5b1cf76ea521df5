import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unending.parts.prefix import RadixTree, longest_common_prefix

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=12)


def ids(sequence):
    return np.array(sequence, dtype=np.int64)


@given(st.lists(st.integers(0, 2), max_size=9), st.lists(st.integers(0, 2), max_size=9))
def test_longest_common_prefix(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    assert longest_common_prefix(ids(a), ids(b)) == n


def spelled(tree):
    """Every member with the tokens on its way from the root."""
    found = {}

    def walk(node, before):
        here = before + node.span.tolist()
        found.update(dict.fromkeys(node.members, here))
        for key, child in node.children.items():
            assert child.parent is node
            assert key == child.span[: tree.page].tobytes()
            walk(child, here)

    walk(tree.root, [])
    return found


@settings(max_examples=200)
@given(SEQUENCES)
def test_every_sequence_is_spelled_by_its_way_and_no_token_is_held_twice(sequences):
    tree = RadixTree()
    for number, each in enumerate(sequences):
        tree.insert(ids(each), number)
    assert spelled(tree) == dict(enumerate(sequences))
    assert tree.size == len({tuple(each[:end]) for each in sequences for end in range(1, len(each) + 1)})
    assert tree.root.leaves == len(sequences)
    for node in tree.root.walk():
        assert node is tree.root or len(node.span)
        assert (
            node is tree.root
            or len(node.children) + len(node.members) != 1
            or node.members
            or (len(node.children) == 1)
        )


@settings(max_examples=150)
@given(SEQUENCES, st.lists(st.integers(0, 2), max_size=12))
def test_match_finds_the_longest_prefix_in_whole_pages_with_its_values(sequences, asked):
    page, tree = 2, RadixTree(page=2)
    known = {}
    for each in sequences:
        whole = each[: len(each) // page * page]
        values = [
            known.setdefault(tuple(whole[:end]), 100 + len(known))
            for end in range(page, len(whole) + 1, page)
        ]
        tree.insert(ids(whole), values=ids(values))
    values, length = tree.match(ids(asked))
    expected = 0
    while expected + page <= len(asked) and tuple(asked[: expected + page]) in known:
        expected += page
    assert length == expected
    assert values.tolist() == [known[tuple(asked[:end])] for end in range(page, expected + 1, page)]


def test_the_oldest_leaves_come_first_and_a_leaf_trimmed_to_nothing_is_gone():
    tree = RadixTree(page=2)
    tree.insert(ids([1, 1, 2, 2, 3, 3]), values=ids([10, 11, 12]))
    tree.insert(ids([1, 1, 4, 4]), values=ids([10, 13]))
    tree.match(ids([1, 1, 2, 2, 3, 3]))
    oldest = tree.oldest()
    assert [node.span.tolist() for node in oldest] == [[4, 4], [2, 2, 3, 3]]
    assert tree.trim(oldest[1], 1).tolist() == [12]
    assert tree.match(ids([1, 1, 2, 2, 3, 3]))[1] == 4
    assert tree.trim(oldest[0], 1).tolist() == [13]
    assert tree.match(ids([1, 1, 4, 4]))[1] == 2
    assert tree.size == 4
