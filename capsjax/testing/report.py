"""What the checks of a routing function found, as values and in words."""

import dataclasses
import textwrap
import typing
from typing import Literal, NamedTuple

Verdict = Literal["FAILED", "passed", "not checked"]

_INDENT = " " * len("not checked: ")


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
      verdict: "passed", "FAILED" or "not checked".
      sentence: what was measured, or why nothing was.
      fault: the likely fault behind a failure; empty for none.
      check: name of the check.
    """

    verdict: Verdict
    sentence: str
    fault: str = ""
    check: str = ""

    def __str__(self) -> str:
        wrap = textwrap.TextWrapper(width=100, subsequent_indent=_INDENT)
        text = wrap.fill(f"{self.verdict + ':':{len(_INDENT)}}{self.check}. {self.sentence}")
        return text + (
            f"\n{wrap.fill(f'{_INDENT}Likely fault: {self.fault}')}" if self.fault else ""
        )


def passed(sentence: str) -> Finding:
    """Make the finding of a check that passed."""
    return Finding("passed", sentence)


def failed(sentence: str, fault: str) -> Finding:
    """Make the finding of a check that failed."""
    return Finding("FAILED", sentence, fault)


def not_checked(sentence: str) -> Finding:
    """Make the finding of a check that was not possible or not asked for."""
    return Finding("not checked", sentence)


@dataclasses.dataclass(frozen=True)
class Report:
    """The findings of `check_routing`; `str` lists them in sentences.

    Attributes:
      findings: one or more for each check, in the order of the checks.
    """

    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings of failed checks."""
        return tuple(finding for finding in self.findings if finding.verdict == "FAILED")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def faults(self) -> tuple[str, ...]:
        """The likely faults, each once, the most certain first."""
        return tuple(dict.fromkeys(finding.fault for finding in self.failures))

    def raise_if_failed(self) -> "Report":
        """Return the report, or raise AssertionError with its text if a check failed."""
        if self.failures:
            raise AssertionError(str(self))
        return self

    def __str__(self) -> str:
        order = typing.get_args(Verdict)
        verdicts = [finding.verdict for finding in self.findings]
        counts = ", ".join(f"{verdicts.count(name)} {name.lower()}" for name in order)
        findings = sorted(self.findings, key=lambda finding: order.index(finding.verdict))
        return "\n".join([f"Routing checks: {counts}.", *map(str, findings)])
