"""Recipes as values: check, override, dump, load, source, fingerprint, diff.

A config is a frozen keyword-only dataclass whose fields are numbers, strings, None, tuples, named tuples and other such
dataclasses. `classes` are those that may appear by name, in files and in overrides (see `tlx.files.class_names`).
"""

from tlx.config.checks import RESERVED, check, check_choice, check_seed, conform, faults
from tlx.config.documents import SCHEMA, dump, fingerprint, load, sources
from tlx.config.fixes import call_fault
from tlx.config.hints import choices_of
from tlx.config.overrides import assign, assign_all, at, override, override_all, parse
from tlx.config.records import diff, fields, is_record, leaves, replace, source
