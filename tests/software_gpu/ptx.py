"""PTX, which NVIDIA's compiler makes of kernels, to C++ that runs on the host.

A register becomes a variable that holds bits, an instruction a statement (``instructions.py``), a
function a function. What is not known raises ``UnknownError`` with its name.
"""

import re
from dataclasses import dataclass

from instructions import TYPES, Instruction, UnknownError, identifier, translated

#: nothing that says what is computed
IGNORED = re.compile(r"//[^\n]*|^\s*\.(version|target|address_size|pragma)\b[^\n]*", re.MULTILINE)
LINKAGE = r"(?:\s*\.(?:visible|weak|extern|common))*\s*"
FUNCTION = re.compile(
    LINKAGE + r"\.(?P<kind>entry|func)\s*(?:\((?P<returned>[^)]*)\))?\s*(?P<name>[\w$]+)\s*"
    r"(?:\((?P<parameters>[^)]*)\))?[^{;]*"
)
VARIABLE = re.compile(
    r"\.(?P<space>\w+)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)"
    r"(?:\[(?P<count>\d*)\])?"
)
REGISTERS = re.compile(r"\.reg\s*\.(?P<type>\w+)\s+(?P<names>.*)", re.DOTALL)
STATEMENT = re.compile(r"\s*(?:(?P<brace>[{}])|(?P<label>[\w$]+):|(?P<code>[^;{}][^;]*);)")
INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)(?P<guard>%\w+)\s+)?(?P<opcode>[\w.]+)\s*(?P<rest>.*)"
)
#: instructions with which threads wait for each other
WAITING = re.compile(r"\b(bar|shfl)\.")


@dataclass(frozen=True)
class Variable:
    """A parameter, or memory with a name."""

    space: str
    name: str
    align: int
    size: int

    @classmethod
    def read(cls, text):
        found = VARIABLE.match(text.strip())
        if not found:
            raise UnknownError(text)
        size = TYPES[found["type"]].size
        count = 1 if found["count"] is None else int(found["count"] or 0)
        return cls(found["space"], found["name"], int(found["align"] or size), size * count)


def placed(variables):
    """Each variable with its offset, one behind the other as far as they are aligned."""
    offset = 0
    for one in variables:
        offset = -(-offset // one.align) * one.align
        yield one, offset
        offset += one.size


def end_of(placement):
    return max((offset + one.size for one, offset in placement), default=0)


class Function:
    """A kernel, or what kernels call: its C++."""

    def __init__(self, header, body, shared):
        self.is_kernel = header["kind"] == "entry"
        self.name = header["name"]
        self.parameters = list(placed(self._variables(header["parameters"])))
        self.returned = list(placed(self._variables(header["returned"])))
        self.waits = bool(WAITING.search(body))
        self._symbols = {}
        names = set(re.findall(r"[\w$]+", body))
        self._place_shared([one for one in shared if one.name in names])
        self._declared, self._statements = [], []
        self._translate(body)
        if self.shared and not self.is_kernel:
            raise UnknownError(f"shared memory in a function that is no kernel, {self.name}")

    @staticmethod
    def _variables(text):
        return [Variable.read(part) for part in (text or "").split(",") if part.strip()]

    def _place_shared(self, variables):
        """What a launch gives besides, which has no size, comes last."""
        self.shared = list(placed(sorted(variables, key=lambda one: one.size == 0)))
        self._symbols |= {one.name: f"{offset}ull" for one, offset in self.shared}

    def _translate(self, body):
        depth = 0
        if rest := STATEMENT.sub("", body).strip():
            raise UnknownError(rest)
        for found in STATEMENT.finditer(body):
            if found["brace"]:
                depth += 1 if found["brace"] == "{" else -1
                self._statements.append(found["brace"])
            elif found["label"]:
                self._statements.append(f"{identifier(found['label'])}: ;")
            elif found["code"].startswith("."):
                declared = self._declaration(found["code"], depth)
                # before all else, since C++ does not jump over what is initialised
                (self._statements if depth else self._declared).append(declared)
            else:
                self._statements.append(self._instruction(" ".join(found["code"].split())))

    def _declaration(self, text, depth):
        if text.startswith(".reg"):
            found = REGISTERS.fullmatch(text)
            if not found or found["type"] not in TYPES:
                raise UnknownError(text)
            start = "" if depth else " = 0"
            declared = [name + start for name in self._registers(found["names"])]
            return f"{TYPES[found['type']].word} {', '.join(declared)};"
        one = Variable.read(text)
        if one.space == "shared":
            self._place_shared([known for known, _ in self.shared] + [one])
            return ""
        name = identifier(one.name)
        if one.space == "local":
            self._symbols[one.name] = f"(u64){name}"
        elif one.space != "param":
            raise UnknownError(text)
        return f"alignas({max(one.align, 8)}) u8 {name}[{one.size}];"

    @staticmethod
    def _registers(names):
        for name in names.split(","):
            found = re.fullmatch(r"(%?[\w$]+)<(\d+)>", name.strip())
            numbered = (f"{found[1]}{i}" for i in range(int(found[2]))) if found else [name.strip()]
            yield from map(identifier, numbered)

    def _instruction(self, text):
        found = INSTRUCTION.fullmatch(text)
        if not found:
            raise UnknownError(text)
        code = translated(Instruction(found["opcode"], found["rest"], self._symbols))
        if found["guard"]:
            return f"if ({found['negated']}{identifier(found['guard'])}) {{ {code} }}"
        return code

    @property
    def signature(self):
        if self.is_kernel:
            return f"static void {identifier(self.name)}(const u8* parameters)"
        named = [identifier(one.name) for one, _ in (*self.returned, *self.parameters)]
        return f"static void {identifier(self.name)}({', '.join(f'u8* {name}' for name in named)})"

    def cpp(self):
        named = [
            f"const u8* {identifier(one.name)} = parameters + {offset};"
            for one, offset in self.parameters
            if self.is_kernel
        ]
        return "\n".join([self.signature, "{", *named, *self._declared, *self._statements, "}"])

    def layout(self):
        """The table of a kernel's parameters."""
        pairs = ", ".join(f"{offset}, {one.size}" for one, offset in self.parameters) or "0"
        return f"static const u32 layout_{identifier(self.name)}[] = {{{pairs}}};"

    def row(self, waits):
        """The kernel in the table of all."""
        name, count = identifier(self.name), len(self.parameters)
        shared = -(-end_of(self.shared) // 16) * 16  # as what comes behind is aligned
        return f'{{"{self.name}", {name}, layout_{name}, {count}, {shared}, {int(waits)}}},'


def closing(text, start):
    """Where the block ends that begins there."""
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if found[0] == "{" else -1
        if not depth:
            return found.end()
    raise UnknownError(text[start : start + 60])


def items(text):
    """What a module has at its top: functions as (header, body), variables as (None, text)."""
    at = 0
    while text[at:].strip():
        header = FUNCTION.match(text, at)
        end = header.end() if header else text.index(";", at)
        if header and text[end] == "{":
            start, end = end + 1, closing(text, end)
            yield header, text[start : end - 1]
            at = end
            continue
        if not header:  # else a declaration of what is defined elsewhere
            yield None, re.sub(LINKAGE, "", text[at:end], count=1)
        at = end + 1


def cpp(text):
    """The C++ of a module: its kernels in a table, as ``words.h`` describes it."""
    found, shared = [], []
    for header, content in items(IGNORED.sub("", text)):
        if header:
            found.append(Function(header, content, shared))
        elif content.startswith(".shared"):
            shared.append(Variable.read(content))  # other variables: unknown to those who use them
    waits = any(one.waits for one in found)
    kernels = [one for one in found if one.is_kernel]
    return "\n".join(
        [
            '#include "kernel.h"',
            *(f"{one.signature};" for one in found),
            *(one.cpp() for one in found),
            *(one.layout() for one in kernels),
            "EXPORT const Entry entries[] = {",
            *(one.row(waits) for one in kernels),
            "{}};",
            "",
        ]
    )
