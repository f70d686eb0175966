"""The plain types that calls of the app take and give. The edges import them from here, not from below the app."""

from audience.labeling.groups import GroupMap, load_groups
from audience.labeling.panels import Panels, default_panels, load_panels
from audience.models.rules.definition import RuleSet, check_rules
from audience.models.rules.files import parse_rules
from audience.store.database import Record, digest_of
from audience.store.idempotency import IdempotencyKey
from audience.store.publications import under_way
from audience.store.queues import DEFAULT as DEFAULT_QUEUE
from audience.store.queues import Lane, parse_lanes
from audience.store.states import FINAL
from audience.tables.base import Description, SourceSpec
from audience.tables.findings import Finding
from audience.tables.times import parse_bound
from audience.text.documents import json_document

__all__ = [
    "DEFAULT_QUEUE",
    "FINAL",
    "Description",
    "Finding",
    "GroupMap",
    "IdempotencyKey",
    "Lane",
    "Panels",
    "Record",
    "RuleSet",
    "SourceSpec",
    "check_rules",
    "default_panels",
    "digest_of",
    "json_document",
    "load_groups",
    "load_panels",
    "parse_bound",
    "parse_lanes",
    "parse_rules",
    "under_way",
]
