"""The log of commits survives any torn tail with every whole record before it."""

from pathlib import Path

from zowarmup.client.store.commit_log import CommitLog

RECORDS = [b"first", b"\0" * 9, b"the third record"]


def write(file: Path) -> bytes:
    file.unlink(missing_ok=True)
    log = CommitLog(file)
    log.append(RECORDS[:2])
    log.append(RECORDS[2:])
    log.close()
    return file.read_bytes()


def read(file: Path) -> list[bytes]:
    log = CommitLog(file)
    log.close()
    return log.records


def ends(records: list[bytes]) -> list[int]:
    place, found = 0, []
    for record in records:
        place += 8 + len(record)
        found.append(place)
    return found


def test_torn_at_every_byte_the_whole_records_are_left_and_can_be_added_to(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    assert ends(RECORDS)[-1] == len(whole)
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = RECORDS[: sum(end <= cut for end in ends(RECORDS))]
        log = CommitLog(file)
        assert log.records == kept
        log.append([b"after"])
        assert log.bytes == file.stat().st_size
        log.close()
        assert read(file) == [*kept, b"after"]


def test_any_changed_byte_ends_the_log_before_its_record(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert read(file) == RECORDS[: sum(end <= place for end in ends(RECORDS))]


def test_a_tail_of_zeros_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "log"
    whole = write(file)
    file.write_bytes(whole + b"\0" * 4096)
    assert read(file) == RECORDS
    assert file.read_bytes() == whole
