# SPDX-License-Identifier: Apache-2.0
"""Conditions under which an action happens."""

from .substitutions import perform_typed


class IfCondition:
    def __init__(self, predicate_expression):
        self._expression = predicate_expression

    def evaluate(self, context):
        return perform_typed(context, self._expression, bool)

class UnlessCondition(IfCondition):
    def evaluate(self, context):
        return not super().evaluate(context)
