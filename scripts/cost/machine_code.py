"""The control flow of a kernel as nvdisasm prints it: basic blocks, natural loops, and what one turn of a loop costs."""

import re
from dataclasses import dataclass, field

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}


@dataclass
class Instruction:
    opcode: str
    target: str = ""
    guarded: bool = False

    def access(self):
        """("load" or "store", bytes) of an access to global memory."""
        parts = self.opcode.split(".")
        if parts[0] not in ("LDG", "STG"):
            return None
        width = next((WIDTHS[part.lstrip("US")] for part in parts if part.lstrip("US") in WIDTHS), 4)
        return ("load" if parts[0] == "LDG" else "store", width)

    def ends(self):
        """Whether what follows is not reached by falling through."""
        return self.opcode.split(".")[0] in ("BRA", "EXIT", "RET", "JMP", "BRX") and not self.guarded


@dataclass
class Cost:
    """Of a way: its accesses to global memory, its instructions, and how many of them belong to odd cases."""

    loads: dict = field(default_factory=dict)
    stores: dict = field(default_factory=dict)
    instructions: int = 0
    odd: int = 0

    def plus(self, other, times=1):
        def add(a, b):
            return {width: a.get(width, 0) + times * b.get(width, 0) for width in {*a, *b}}

        return Cost(add(self.loads, other.loads), add(self.stores, other.stores),
                    self.instructions + times * other.instructions, self.odd + times * other.odd)

    def accesses(self):
        return sum(self.loads.values()) + sum(self.stores.values())

    def better(self, other):
        return other is None or (self.odd, -self.accesses(), self.instructions) < (
            other.odd, -other.accesses(), other.instructions)

    def count(self, kind):
        return self.loads if kind == "load" else self.stores

    def bytes(self):
        return sum(width * times for part in (self.loads, self.stores) for width, times in part.items())


class Kernel:
    """The code of a kernel, in basic blocks, and its natural loops."""

    def __init__(self, name, lines):
        self.name, code, labels = name, [], {}
        for line in lines:
            label = re.match(r"\s*(\.L_\w+):", line)
            if label:
                labels[label[1]] = len(code)
                continue
            found = re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line)
            if found:
                guard, opcode, rest = found.groups()
                target = re.search(r"`\((\.L_\w+)\)", rest)
                # `BRA.U !UP0, …` is conditional, too, and a conditional call leaves a loop for good.
                guarded = bool(guard or re.match(r"\s*!?U?P\d", rest))
                jumps = target and (opcode.startswith("BRA") or opcode.startswith("CALL") and guarded)
                code.append(Instruction(opcode, target[1] if jumps else "", guarded))
        # A block begins where a jump leads, and behind one.
        starts = {0, *(labels[one.target] for one in code if one.target)}
        starts |= {i + 1 for i, one in enumerate(code) if one.target or one.ends()}
        starts = sorted(start for start in starts if start < len(code))
        number = {start: block for block, start in enumerate(starts)}
        self.blocks = [code[a:b] for a, b in zip(starts, [*starts[1:], len(code)])]
        self.next = []
        for block, inside in enumerate(self.blocks):
            after = {number[labels[one.target]] for one in inside if one.target and labels[one.target] in number}
            if not inside[-1].ends() and block + 1 < len(self.blocks):
                after.add(block + 1)
            self.next.append(after)
        self.loops = self.natural_loops()

    def order(self):
        """The blocks that are reached, each before those that it leads to but for jumps back."""
        seen, out, open_ = {0}, [], [(0, iter(sorted(self.next[0])))]
        while open_:
            block, after = open_[-1]
            for to in after:
                if to not in seen:
                    seen.add(to)
                    open_.append((to, iter(sorted(self.next[to]))))
                    break
            else:
                out.append(block)
                open_.pop()
        return out[::-1]

    def natural_loops(self):
        """The blocks of each loop by its header: all that lead to a jump back without passing the header."""
        order = self.order()
        place = {block: i for i, block in enumerate(order)}
        before = {block: [one for one in order if block in self.next[one]] for block in order}
        dominators = {block: set(order) for block in order}
        dominators[0] = {0}
        changed = True
        while changed:
            changed = False
            for block in order[1:]:
                new = set.intersection(*(dominators[one] for one in before[block])) | {block}
                if new != dominators[block]:
                    dominators[block], changed = new, True
        self.place = place
        loops = {}
        for block in order:
            for header in self.next[block]:
                if header not in dominators[block] or header == block and len(self.blocks[block]) == 1:
                    continue
                body, open_ = loops.setdefault(header, {header}), [block]
                while open_:
                    one = open_.pop()
                    if one not in body:
                        body.add(one)
                        open_.extend(before[one])
        return loops

    def main_loop(self, counts):
        """The header of the innermost loop with accesses that count elements; of several, of the one with the most."""
        def weight(header):
            of = [one.access() for block in self.loops[header] for one in self.blocks[block]]
            return sum(counts(*one) for one in of if one)

        holding = [header for header in self.loops if weight(header)]
        inner = [a for a in holding if not any(b != a and self.loops[b] < self.loops[a] for b in holding)]
        return max(inner, key=weight, default=None)

    def cost_of_block(self, block):
        cost = Cost()
        for one in self.blocks[block]:
            access = one.access()
            if access:
                cost.count(access[0])[access[1]] = cost.count(access[0]).get(access[1], 0) + 1
            cost.instructions += 1
            # Calls are those of 64-bit division, atomics those of the record of errors.
            name = one.opcode.split(".")[0]
            cost.odd += name in ("ATOMG", "ATOM", "RED", "REDG", "MEMBAR") or (name == "CALL" and not one.guarded)
        return cost

    def nested(self, header, body, taps, per_tap):
        """The cost of one turn of a loop inside the main one, and how many turns it makes."""
        cost = self.turn(header, taps[1:], per_tap) or Cost()
        if not cost.accesses() or not taps:
            return cost, 1
        loads = sum(cost.loads.values())
        inner = [one for one, blocks in self.loops.items() if one != header and blocks < body]
        deepest = all(not (self.turn(one, [], per_tap) or Cost()).accesses() for one in inner)
        # One that is unrolled takes several taps in a turn, and makes none if there are fewer.
        return cost, taps[0] * per_tap // loads if deepest else taps[0]

    def turn(self, header, taps, per_tap):
        """The cost of one turn of a loop, on the way that the top of this file describes."""
        body = self.loops[header]
        inside = {one: blocks for one, blocks in self.loops.items() if one != header and blocks < body}
        children = {one: blocks for one, blocks in inside.items()
                    if not any(blocks < other for other in inside.values())}
        owner = {block: child for child, blocks in children.items() for block in blocks}
        best, result = {header: Cost()}, None
        for block in sorted(body, key=self.place.get):
            cost = best.get(block)
            if cost is None or owner.get(block, block) != block:
                continue
            if block in children:
                cost = cost.plus(*self.nested(block, children[block], taps, per_tap))
                after = {to for one in children[block] for to in self.next[one] if to not in children[block]}
            else:
                cost, after = cost.plus(self.cost_of_block(block)), self.next[block]
            for to in after:
                if to == header:
                    result = cost if cost.better(result) else result
                elif to in body and cost.better(best.get(to)):
                    best[to] = cost
        return result
