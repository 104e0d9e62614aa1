"""What each instruction of PTX does, as a statement of C++ with the words of ``kernel.h``.

A table says which function translates an opcode. Modifiers that it does not take are refused: an
instruction means what was understood of it, or raises ``UnknownError``.
"""

import re
from dataclasses import dataclass


class UnknownError(Exception):
    """Something that the software GPU does not know."""

    def __init__(self, what):
        super().__init__(f"the software GPU does not know {what!r}: see tests/software_gpu")


@dataclass(frozen=True)
class Type:
    """A type of PTX: its name is that in C++, and word the type of the bits."""

    name: str
    size: int
    word: str

    @property
    def is_float(self):
        return self.name in FLOATS


FLOATS = ("f16", "bf16", "f32", "f64")
SIZES = (
    {"b8": 1, "u8": 1, "s8": 1, "f16": 2, "bf16": 2}
    | {f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (16, 32, 64)}
    | {"f32": 4, "f64": 8}
)
TYPES = {
    name: Type(re.sub("^b(?=[0-9])", "u", name), size, f"u{8 * size}")
    for name, size in SIZES.items()
} | {"pred": Type("bool", 1, "bool")}

SPECIAL = {"%tid": "thread", "%ctaid": "block", "%ntid": "block_size", "%nctaid": "grid_size"}


def identifier(name):
    """A name of PTX as one of C++."""
    return "p_" + re.sub(r"\W", "_", name)


def separated(text):
    """The operands, which commas separate, but not inside of braces and brackets."""
    return [
        part.strip() for part in re.findall(r"(?:[^,{(\[]|\{[^}]*\}|\([^)]*\)|\[[^]]*\])+", text)
    ]


class Instruction:
    """An opcode with modifiers and operands; ``symbols``: what names are, other than registers."""

    def __init__(self, opcode, operands, symbols):
        self.opcode = opcode
        self.name, *self._modifiers = opcode.split(".")
        self.operands = separated(operands)
        self._symbols = symbols

    def take(self, *choices):
        """Which of these modifiers is there, or None; it is understood from now on."""
        for one in choices:
            if one in self._modifiers:
                self._modifiers.remove(one)
                return one
        return None

    def type(self):
        """The type among the modifiers, the last if there are several."""
        for one in reversed(self._modifiers):
            if one in TYPES:
                self._modifiers.remove(one)
                return TYPES[one]
        raise UnknownError(self.opcode)

    def choose(self, table):
        """The entry of a table for the opcode."""
        if self.name not in table:
            raise UnknownError(self.opcode)
        return table[self.name]

    def finish(self):
        if self._modifiers:
            raise UnknownError(self.opcode)

    def bits(self, operand):
        """An operand as an expression: a register's bits, a number, an address."""
        base, _, axis = operand.partition(".")
        if base in SPECIAL:
            return f"gpu_place.{SPECIAL[base]}.{axis}"
        if operand.startswith("%"):
            return identifier(operand)
        if found := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", operand):
            return f"0x{found[1] or found[2]}ull"
        if re.fullmatch(r"-?(\d+|0x[0-9A-Fa-f]+)U?", operand):
            return f"(u64){int(operand.rstrip('U'), 0) % 2**64}ull"
        if operand in self._symbols:
            return self._symbols[operand]
        raise UnknownError(operand)

    def value(self, operand, kind):
        """An operand as a value of a type."""
        if kind.name == "f32" and operand[:2].lower() == "0d":
            raise UnknownError(operand)
        return f"as<{kind.name}>({self.bits(operand)})"

    def values(self, kind):
        """All operands but the first, where the result goes."""
        return [self.value(operand, kind) for operand in self.operands[1:]]

    def to(self, expression, kind):
        """The value of the expression, of this type, goes to the first operand."""
        return f"{self.target()} = word(({kind.name})({expression}));"

    def target(self):
        if not self.operands[0].startswith("%"):
            raise UnknownError(f"{self.opcode} {self.operands[0]}")
        return identifier(self.operands[0])


def parts(operand):
    """The registers between braces, or the one that there is."""
    return [part.strip() for part in operand.strip("{}").split(",")]


# --- memory

#: of addresses whose space the instruction names; generic ones are all in the GPU's memory
SPACES = {"global": "in_global", "shared": "in_shared", "local": "in_local", None: "in_global"}


def _accessed(instruction, operand):
    """The address in brackets, checked; the type there, and how many there are."""
    space = instruction.take("param", "global", "shared", "local")
    count = int((instruction.take("v2", "v4") or "v1")[1:])
    kind = instruction.type()
    base, _, offset = operand.strip("[] ").partition("+")
    offset = int(offset or "0", 0)
    if space == "param":
        return f"{identifier(base)} + {offset}", kind
    address = f"{instruction.bits(base)} + {offset}"
    return f"{SPACES[space]}<{count * kind.size}>({address})", kind


def load(instruction):
    to, place = instruction.operands
    address, kind = _accessed(instruction, place)
    name = kind.word if kind.is_float else kind.name
    loads = [
        f"{identifier(part)} = load<{name}>(from + {i * kind.size});"
        for i, part in enumerate(parts(to))
    ]
    return f"{{ const u8* from = {address}; {' '.join(loads)} }}"


def store(instruction):
    place, what = instruction.operands
    address, kind = _accessed(instruction, place)
    stores = [
        f"store<{kind.word}>(to + {i * kind.size}, {instruction.bits(part)});"
        for i, part in enumerate(parts(what))
    ]
    return f"{{ u8* to = (u8*)({address}); {' '.join(stores)} }}"


def atomic(instruction):
    """Threads take turns, so that nothing can come between."""
    instruction.take("add") or instruction.finish()
    to, place, operand = instruction.operands
    address, kind = _accessed(instruction, place)
    new = f"as<{kind.name}>(old) + {instruction.value(operand, kind)}"
    return (
        f"{{ u8* at = {address}; const {kind.word} old = load<{kind.word}>(at); "
        f"store<{kind.word}>(at, word(({kind.name})({new}))); {identifier(to)} = old; }}"
    )


def move(instruction):
    kind = instruction.type()
    to, what = instruction.operands
    bits = 8 * kind.size
    if to.startswith("{"):
        names = parts(to)
        width = bits // len(names)
        moves = [
            f"{identifier(name)} = (u{width})(whole >> {i * width});"
            for i, name in enumerate(names)
            if name != "_"
        ]
        return f"{{ const u64 whole = {instruction.bits(what)}; {' '.join(moves)} }}"
    if what.startswith("{"):
        names = parts(what)
        width = bits // len(names)
        whole = [f"(u64)(u{width}){identifier(x)} << {i * width}" for i, x in enumerate(names)]
        return f"{instruction.target()} = {' | '.join(whole)};"
    return f"{instruction.target()} = {instruction.bits(what)};"


def change_space(instruction):
    """From generic addresses to those of the GPU's memory, which are the same."""
    if not (instruction.take("to") and instruction.take("global")):
        raise UnknownError(instruction.opcode)
    instruction.type()
    return f"{instruction.target()} = {instruction.bits(instruction.operands[1])};"


# --- arithmetic

FLOAT = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "fma": "fused({0}, {1}, {2})",
    "min": "smaller({0}, {1})",
    "max": "larger({0}, {1})",
    "neg": "-{0}",
    "abs": "magnitude({0})",
    "sqrt": "root({0})",
    "rcp": "1 / {0}",
    "ex2": "power_of_two({0})",
    "copysign": "with_sign({1}, {0})",
}
INTEGER = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "mad": "{0} * {1} + {2}",
    "div": "quotient({0}, {1})",
    "rem": "remainder({0}, {1})",
    "min": "{0} < {1} ? {0} : {1}",
    "max": "{0} > {1} ? {0} : {1}",
    "neg": "0 - {0}",
    "abs": "{0} < 0 ? 0 - {0} : {0}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "bfi": "inserted({0}, {1}, {2}, {3})",
    "popc": "__builtin_popcountll({0})",
}
#: those whose result has the same low bits, however wide and signed the operands
WRAPPING = ("add", "sub", "mul", "mad", "neg")
DIRECTIONS = {"rz": "TO_ZERO", "rm": "DOWN", "rp": "UP"}


def arithmetic(instruction):
    kind = instruction.type()
    return (_floating if kind.is_float else _integer)(instruction, kind)


def _floating(instruction, kind):
    if kind.name not in ("f32", "f64"):
        raise UnknownError(instruction.opcode)
    formula = instruction.choose(FLOAT)
    instruction.take("approx", "full")  # as exact as the host
    flush, direction = instruction.take("ftz"), instruction.take("rn", *DIRECTIONS)
    values = instruction.values(kind)
    if flush and kind.name == "f32":
        values = [f"flushed({value})" for value in values]
    if direction in DIRECTIONS:
        names = ["x", "y", "z"][: len(values)]
        function = f"[]({', '.join(f'auto {name}' for name in names)}) {{ return "
        function += f"{formula.format(*names)}; }}"
        result = f"toward<{DIRECTIONS[direction]}>({function}, {', '.join(values)})"
    else:
        result = formula.format(*values)
    if flush and kind.name == "f32":
        result = f"flushed({result})"
    return instruction.to(result, kind)


def _integer(instruction, kind):
    formula = instruction.choose(INTEGER)
    result = kind
    if instruction.take("wide"):
        result = TYPES[f"{kind.name[0]}{16 * kind.size}"]
        first, second, *third = instruction.operands[1:]
        values = [f"({result.name}){instruction.value(one, kind)}" for one in (first, second)]
        values += [instruction.value(one, result) for one in third]
    elif instruction.name in WRAPPING:
        instruction.take("lo")
        values = [f"(u64){instruction.bits(one)}" for one in instruction.operands[1:]]
    elif instruction.name == "bfi":
        values = instruction.values(kind)[:2] + instruction.values(TYPES["u32"])[2:]
    else:
        values = instruction.values(kind)
    return instruction.to(formula.format(*values), result)


def shift(instruction):
    kind = instruction.type()
    function = {"shl": "shifted_left", "shr": "shifted_right"}[instruction.name]
    _, what, by = instruction.operands
    value = instruction.value(what, kind)
    return instruction.to(f"{function}({value}, {instruction.value(by, TYPES['u32'])})", kind)


def invert(instruction):
    sign = "!" if instruction.type().name == "bool" else "~"
    return f"{instruction.target()} = {sign}{instruction.bits(instruction.operands[1])};"


# --- conversion

#: to a number without a fraction
WHOLE = {"rni": "nearest", "rzi": "truncated", "rmi": "lower", "rpi": "upper"}


def convert(instruction):
    source, target = instruction.type(), instruction.type()
    value = instruction.value(instruction.operands[1], source)
    flush, saturate = instruction.take("ftz"), instruction.take("sat")
    rounding = instruction.take("rn", *WHOLE)  # C++'s own conversions are rn
    if flush and source.name == "f32":
        value = f"flushed({value})"
    if rounding in WHOLE:
        value = f"{WHOLE[rounding]}({value})"
    if source.is_float and not target.is_float:
        if saturate or rounding not in WHOLE:
            raise UnknownError(instruction.opcode)
        return instruction.to(f"integer<{target.name}>({value})", target)
    if target.name == "bf16" and source.name != "f32":
        raise UnknownError(instruction.opcode)
    if target.name == "f16" and not source.is_float:
        value = f"(f64){value}"  # exact, or too large for fp16 anyway
    value = f"({target.name})({value})"
    if saturate and target.is_float:
        value = f"saturated({value})"
    elif saturate:
        raise UnknownError(instruction.opcode)
    if flush and target.name == "f32":
        value = f"flushed({value})"
    return instruction.to(value, target)


# --- comparison

ORDER = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
#: of floats: ordinary ones are false if there is a NaN, those with a u are true
COMPARISONS = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in ORDER.items() if name != "ne"},
    "ne": "{0} < {1} || {0} > {1}",
    "equ": "!({0} < {1} || {0} > {1})",
    "neu": "{0} != {1}",
    "ltu": "!({0} >= {1})",
    "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})",
    "geu": "!({0} < {1})",
    "nan": "unordered({0}, {1})",
    "num": "!unordered({0}, {1})",
}


def _compared(instruction, kind):
    known = COMPARISONS if kind.is_float else ORDER
    values = [instruction.value(one, kind) for one in instruction.operands[1:3]]
    if instruction.take("ftz"):
        values = [f"flushed({value})" for value in values]
    name = instruction.take(*known)
    if name is None:
        raise UnknownError(instruction.opcode)
    return COMPARISONS[name].format(*values) if kind.is_float else ORDER[name].join(values)


def compare(instruction):
    """setp, which may combine what it finds with another predicate."""
    found = _compared(instruction, instruction.type())
    if combined := instruction.take("and", "or", "xor"):
        sign = {"and": "&", "or": "|", "xor": "^"}[combined]
        found = f"({found}) {sign} {instruction.bits(instruction.operands[3])}"
    return f"{instruction.target()} = {found};"


def compare_to_number(instruction):
    """set: 1.0 or 0.0 of the type that comes first."""
    source, target = instruction.type(), instruction.type()
    if not target.is_float:
        raise UnknownError(instruction.opcode)
    return instruction.to(f"f32({_compared(instruction, source)})", target)


def select(instruction):
    instruction.type()
    first, second, condition = map(instruction.bits, instruction.operands[1:])
    return f"{instruction.target()} = {condition} ? {first} : {second};"


# --- control, and threads


def branch(instruction):
    instruction.take("uni")
    return f"goto {identifier(instruction.operands[0])};"


def leave(_):
    return "return;"


def call(instruction):
    """call (results), function, (parameters); either group may be missing."""
    instruction.take("uni")
    (name,) = (one for one in instruction.operands if not one.startswith("("))
    groups = [one.strip("()").split(",") for one in instruction.operands if one.startswith("(")]
    pointers = [identifier(one.strip()) for group in groups for one in group if one.strip()]
    return f"{identifier(name)}({', '.join(pointers)});"


def barrier(instruction):
    if instruction.take("warp") and instruction.take("sync"):
        return f"gpu_wait_for_warp({instruction.bits(instruction.operands[0])});"
    if instruction.take("sync") and instruction.operands == ["0"]:
        return "gpu_wait_for_block();"
    raise UnknownError(instruction.opcode)


def shuffle(instruction):
    """The word of another lane, and whether there is one."""
    if not (instruction.take("sync") and instruction.take("bfly")):
        raise UnknownError(instruction.opcode)
    instruction.type()
    to, _, inside = instruction.operands[0].partition("|")
    numbers = ", ".join(map(instruction.bits, instruction.operands[1:]))
    taken = f"{identifier(inside)} = inside; " if inside else ""
    return f"{{ bool inside; {identifier(to)} = gpu_shuffle_xor({numbers}, inside); {taken}}}"


TRANSLATORS = {
    **dict.fromkeys([*FLOAT, *INTEGER], arithmetic),
    "ld": load,
    "st": store,
    "atom": atomic,
    "mov": move,
    "cvta": change_space,
    "shl": shift,
    "shr": shift,
    "not": invert,
    "cvt": convert,
    "setp": compare,
    "set": compare_to_number,
    "selp": select,
    "bra": branch,
    "ret": leave,
    "call": call,
    "bar": barrier,
    "shfl": shuffle,
}


def translated(instruction):
    """The C++ of an instruction."""
    code = instruction.choose(TRANSLATORS)(instruction)
    instruction.finish()
    return code
