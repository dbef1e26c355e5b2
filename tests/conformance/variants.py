"""Every variant by its name."""

from __future__ import annotations

from tests.conformance.dense_variants import DENSE
from tests.conformance.expert_variants import EXPERT
from tests.conformance.recurrent_variants import RECURRENT

VARIANTS = {**DENSE, **EXPERT, **RECURRENT}
