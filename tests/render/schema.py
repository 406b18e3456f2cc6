"""Validates JSON documents against a JSON schema, and prints for each whether it is valid."""

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

schema, *documents = (json.loads(Path(path).read_bytes()) for path in sys.argv[1:])
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
print(json.dumps([validator.is_valid(document) for document in documents]))
