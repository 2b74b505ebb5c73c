"""Schemas for pydantic of the settings of a run's algorithms, which are of the class that their `algorithm` names.

Run files and the ledger hold settings as tables; `RunFile` only says that a phase has some. Importing this module teaches
pydantic the rest.
"""

import json
from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, with_config
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder

_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _tagged(base: type[WarmUp] | type[ZerothOrder], section: str) -> None:
    """A field of type `base` is read as the class that its `algorithm` names, and written with all of that class's fields."""

    def read(value: Any) -> WarmUp | ZerothOrder:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("table", "must be a table")
        # Through JSON, where strict means: no string for a number, but tables for dataclasses.
        settings = settings_class(section, value.get("algorithm"))
        found: WarmUp | ZerothOrder = _adapter(settings).validate_json(json.dumps(value), strict=True)
        return found

    def schema(cls: type, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source is not base:
            return handler(source)
        written = core_schema.plain_serializer_function_ser_schema(asdict)
        return core_schema.no_info_plain_validator_function(read, serialization=written)

    with_config(ConfigDict(extra="forbid"))(base)
    base.__get_pydantic_core_schema__ = classmethod(schema)  # type: ignore[union-attr]


_tagged(WarmUp, "warmup")
_tagged(ZerothOrder, "zeroth_order")
