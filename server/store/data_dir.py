"""The data directory's files, by name."""

from zowarmup.server.store.ledger import FILE_NAME

CA_FILE = "ca.pem"
OPERATOR_CREDENTIAL = "operator.credential"
LEDGER = FILE_NAME
BLOBS = "blobs"
