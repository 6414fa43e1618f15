# SPDX-License-Identifier: Apache-2.0
"""Conditions under which an action happens."""

from ._unsupported import explain
from .substitutions import perform_typed

__getattr__ = explain(__name__)

class IfCondition:
    """True if the expression is 'true' or '1' in any case of letters."""

    def __init__(self, predicate_expression):
        self._expression = predicate_expression

    def evaluate(self, context):
        return perform_typed(context, self._expression, bool)

class UnlessCondition(IfCondition):
    """True if the expression is 'false' or '0' in any case of letters."""

    def evaluate(self, context):
        return not super().evaluate(context)
