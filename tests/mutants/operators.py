"""Every mutant of a source text: one operator, boundary, constant, exit, raise, clean-up or call changed.

Not here: which mutants are run and against which tests (run.py). Rules: the change is made in the text, so that all
other lines keep their numbers; docstrings, annotations, `__all__` and log calls are left
alone, since a change there is no fault that a test could notice.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from typing import Final, NamedTuple

COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}
CLEAN_UP: Final = frozenset(
    {"cancel", "clear", "close", "discard", "forget", "pop", "release", "remove", "stop", "unsubscribe"}
)
"""Names of methods that end or forget something."""
LOGGING: Final = frozenset({"debug", "info", "warning", "error", "exception", "log"})


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        path: of the source, relative to src/narthex, with forward slashes.
        line: where the change begins, from 1.
        operator: what kind of change it is.
        before, after: the texts that are exchanged.
        start, end: where `before` stands in the file, in characters.
    """

    path: str
    line: int
    operator: str
    before: str
    after: str
    start: int
    end: int

    def applied(self, source: str) -> str:
        """The source with the change."""
        return source[: self.start] + self.after + source[self.end :]

    def __str__(self) -> str:
        before = " ".join(self.before.split())
        return f"{self.path}:{self.line}: {self.operator}: `{before[:70]}` -> `{self.after[:70]}`"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All changes of a source text, in the order of their places; a few may not compile."""
    found = _Finder(path, source)
    found.visit(ast.parse(source))
    return sorted(found.mutants, key=lambda it: it.start)


def compiles(mutant: Mutant, source: str) -> bool:
    """Whether the change leaves valid Python; asked of the mutants that are drawn, since it costs a compilation."""
    try:
        compile(mutant.applied(source), mutant.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collects mutants; only code inside functions and module-level constants are looked at."""

    def __init__(self, path: str, source: str) -> None:
        self.mutants: list[Mutant] = []
        self._path, self._source = path, source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._texts = source.splitlines(keepends=True)
        self._in_finally = 0

    # -- what is passed over

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """An annotation is no behaviour; the value is."""
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Defaults and the body, without annotations, decorators and the docstring."""
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        """As a function."""
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._body(node.body)
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        yields = any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node))
        if body and not yields and not isinstance(body[0], ast.Return | ast.Raise | ast.Pass):
            at = self._at(body[0])
            self._add("early exit", at, at, "return None; ", body[0]) if _simple(body[0]) else None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The body."""
        self._body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        """The body."""
        self._body(node.body)

    def visit_If(self, node: ast.If) -> None:
        """Imports for types are never executed."""
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Narrows a type and decides nothing."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Positions inside an f-string are not exact before Python 3.12."""

    def _body(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                self.visit(statement)

    # -- what is changed

    def visit_Compare(self, node: ast.Compare) -> None:
        """`<` becomes `<=`, `is` becomes `is not` …"""
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            kind = "boundary" if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else "comparison"
            self._between(kind, left, right, COMPARISONS[type(operator)])
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`and` and `or` change places."""
        other = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between("operator", left, right, other)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """`+` becomes `-` …"""
        if type(node.op) in ARITHMETIC and not _textual(node):
            self._between("operator", node.left, node.right, ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """`not` is taken out."""
        if isinstance(node.op, ast.Not):
            self._add("operator", self._at(node), self._at(node.operand), "", node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A truth value is turned round, a number is one more."""
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace("constant", node, str(node.value + 1))
        elif isinstance(node.value, float):
            self._replace("constant", node, str(node.value * 2 + 1.0))

    def visit_Raise(self, node: ast.Raise) -> None:
        """An error is not raised."""
        self._replace("raise", node, "pass")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        """A loop goes on."""
        self._replace("exit", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        """A loop ends."""
        self._replace("exit", node, "break")

    def visit_Return(self, node: ast.Return) -> None:
        """A value is replaced by nothing, nothing is returned where the function ended."""
        if node.value is None:
            self._replace("exit", node, "pass")
        elif not (isinstance(node.value, ast.Constant) and node.value.value in (None, True, False)):
            self._replace("exit", node.value, "None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call for its effect is left out."""
        value = node.value
        called = value.value if isinstance(value, ast.Await) else value
        if isinstance(called, ast.Call):
            name = _name(called.func)
            if name in LOGGING:
                return
            kind = "clean-up" if name in CLEAN_UP or self._in_finally else "call"
            self._replace(kind, node, "pass")
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        """What stands in `finally` is clean-up."""
        for part in (*node.body, *node.handlers, *node.orelse):
            self.visit(part)
        self._in_finally += 1
        for part in node.finalbody:
            self.visit(part)
        self._in_finally -= 1

    def visit_Assign(self, node: ast.Assign) -> None:
        """`__all__` and the like are names, not behaviour."""
        if not any(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets):
            self.generic_visit(node)

    # -- places in the text

    def _at(self, node: ast.expr | ast.stmt) -> int:
        return self._offset(node.lineno, node.col_offset)

    def _until(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """The module `ast` counts columns in UTF-8 bytes."""
        text = self._texts[line - 1]
        return self._lines[line - 1] + len(text.encode()[:column].decode())

    def _replace(self, operator: str, node: ast.expr | ast.stmt, after: str) -> None:
        self._add(operator, self._at(node), self._until(node), after, node)

    def _between(self, operator: str, left: ast.expr, right: ast.expr, after: str) -> None:
        """Exchange the operator's tokens between two operands; brackets and comments stay."""
        start, end = self._until(left), self._at(right)
        span = _operator_tokens(self._source[start:end])
        if span is not None:
            self._add(operator, start + span[0], start + span[1], after, left)

    def _add(self, operator: str, start: int, end: int, after: str, node: ast.expr | ast.stmt) -> None:
        line = self._source.count("\n", 0, start) + 1
        self.mutants.append(
            Mutant(
                self._path, line, operator, self._source[start:end] or ast.unparse(node), after, start, end
            )
        )


def _operator_tokens(text: str) -> tuple[int, int] | None:
    """Where the operator stands in the text between two operands; None when it cannot be told."""
    words = list(_tokens(text))
    if not words:
        return None
    return words[0][0], words[-1][1]


def _tokens(text: str) -> Iterator[tuple[int, int]]:
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    try:
        # A bracket before the text keeps the tokenizer from seeing indentation; closing ones are no operator.
        for token in tokenize.generate_tokens(io.StringIO(f"({text}").readline):
            if token.type in (tokenize.OP, tokenize.NAME) and token.string not in "()[]{},":
                shift = 1 if token.start[0] == 1 else 0
                start = lines[token.start[0] - 1] + token.start[1] - shift
                yield start, start + len(token.string)
    except tokenize.TokenError:  # the bracket of our own is never closed
        return


def _simple(statement: ast.stmt) -> bool:
    """Whether a statement can stand behind a semicolon."""
    return isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign | ast.AnnAssign)


def _textual(node: ast.BinOp) -> bool:
    """Whether it joins or formats text or bytes, as far as literals show."""
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in ast.walk(node)
        if isinstance(side, ast.expr)
    )


def _name(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""
