"""What a client is told of an error."""

import pytest

from unending.core.errors import InputError, SnapshotForeignError, StorageError, StoreCorruptError
from unending.serve.failures import failure_of


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            StoreCorruptError("/srv/store/echo/index.sqlite is damaged: malformed"),
            "index.sqlite is damaged: malformed",
        ),
        (
            SnapshotForeignError("made with other settings: model=/srv/models/big (now /srv/models/small)"),
            "made with other settings: model=big (now small)",
        ),
        (InputError("rows and/or columns of org/model at https://a.b/c/d"), None),
        (StoreCorruptError("no snapshot of 'ann/notes' is intact"), None),
    ],
)
def test_no_path_of_the_server_is_told(error, said):
    assert failure_of(error).message == (said or str(error))


def test_nothing_is_told_of_the_disk():
    assert "srv" not in failure_of(StorageError("cannot write /srv/x: full")).message
