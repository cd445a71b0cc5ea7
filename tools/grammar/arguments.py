"""Phenomena that hang on what a verb or an adjective takes: objects, clauses, auxiliaries, degree words."""

from __future__ import annotations

from tools.grammar.sampling import Draw, Pair, fill, question, sentence


def transitivity(draw: Draw) -> Pair:
    """The teacher sneezed yesterday. / *The teacher repaired yesterday."""
    person = draw.person()
    lone, needy = draw.pick(draw.words.intransitives).past, draw.pick(draw.words.thing_verbs).past
    tail = draw.pick(("yesterday", draw.place()))
    if draw.flip():
        return fill(f"{person} {{}} {tail}", lone, needy)
    return fill(f"{person} {{}} {draw.thing()} {tail}", needy, lone)


def ditransitive(draw: Draw) -> Pair:
    """The teacher explained the rule to the boy. / *The teacher explained the boy the rule."""
    giver, taker = draw.two_people()
    if draw.flip():
        tell, content = draw.pick(draw.words.telling_verbs).past, draw.pick(draw.words.contents)
        return sentence(f"{giver} {tell} the {content} to {taker}"), sentence(f"{giver} {tell} {taker} the {content}")
    give, gift = draw.pick(draw.words.giving_verbs).past, draw.pick(draw.words.gifts)
    good = f"{giver} {give} {taker} the {gift}" if draw.flip() else f"{giver} {give} the {gift} to {taker}"
    return sentence(good), sentence(f"{giver} {give} to {taker}")


def passive(draw: Draw) -> Pair:
    """The lamp was repaired by the boy. / *The lamp was repairing by the boy."""
    person, thing = draw.person(), draw.thing()
    act, idle = draw.pick(draw.words.thing_verbs), draw.pick(draw.words.intransitives)
    match draw.below(3):
        case 0:
            return fill(f"{thing} was {{}} by {person}", act.participle, act.ing)
        case 1:
            return fill(f"{person} was {{}} {thing}", act.ing, act.participle)
        case _:
            frame = f"{person} {{}} by the {draw.pick(draw.words.landmarks)}"
            return fill(frame, idle.past, f"was {idle.participle}")


def raising_control(draw: Draw) -> Pair:
    """It seemed that the boy would laugh. / *The teacher seemed that the boy would laugh."""
    one, two = draw.two_people()
    raise_, hope = draw.pick(draw.words.raising_verbs).past, draw.pick(draw.words.hoping_verbs).past
    clause = f"that {two} would {draw.pick(draw.words.intransitives).base}"
    match draw.below(3):
        case 0:
            return fill(f"{{}} {raise_} {clause}", "it", one)
        case 1:
            return fill(f"{{}} {hope} {clause}", one, "there")
        case _:
            noun = draw.pick(draw.words.people + draw.words.things)
            infinitive = f"to be {draw.pick(('two', 'several', 'many'))} {noun.plural} {draw.place()}"
            return fill(f"there {{}} {infinitive}", raise_, hope)


def gerund_infinitive(draw: Draw) -> Pair:
    """The teacher enjoyed polishing the lamp. / *The teacher enjoyed to polish the lamp."""
    act = draw.pick(draw.words.thing_verbs)
    person, thing = draw.person(), draw.thing()
    gerund, infinitive = f"{act.ing} {thing}", f"to {act.base} {thing}"
    if draw.flip():
        return fill(f"{person} {draw.pick(draw.words.gerund_verbs).past} {{}}", gerund, infinitive)
    return fill(f"{person} {draw.pick(draw.words.infinitive_verbs).past} {{}}", infinitive, gerund)


def auxiliary_form(draw: Draw) -> Pair:
    """The teacher will repair the lamp. / *The teacher will repairing the lamp."""
    act = draw.pick(draw.words.thing_verbs)
    person, thing = draw.person(), draw.thing()
    modal = draw.pick(("will", "can", "should", "must", "did not"))
    forms = {modal: act.base, draw.pick(("has", "had")): act.participle, draw.pick(("is", "was")): act.ing}
    auxiliary, other = draw.two(tuple(forms))
    return fill(f"{person} {auxiliary} {{}} {thing}", forms[auxiliary], forms[other])


def irregular_form(draw: Draw) -> Pair:
    """The teacher has written the letter. / *The teacher has wrote the letter."""
    verb, objects = draw.pick(draw.words.irregulars)
    noun = draw.pick(objects).form(draw.flip())
    person = draw.person()
    match draw.below(4):
        case 0:
            head, right, wrong = f"{draw.pick(('has', 'had'))} ", verb.participle, verb.past
        case 1:
            head, right, wrong = draw.pick(("did not ", "will ", "should ")), verb.base, verb.past
        case _:
            head, right, wrong = "", verb.past, verb.participle
    return fill(f"{person} {head}{{}} the {noun}", right, wrong)


def comparison(draw: Draw) -> Pair:
    """The boy is taller than the girl. / *The boy is taller as the girl."""
    one, two = draw.two_people()
    be = draw.pick(("is", "was"))
    adjective = draw.pick(draw.words.adjectives)
    match draw.below(3):
        case 0:
            right = f"{adjective.comparative} than"
            wrong = draw.pick((f"{adjective.base} than", f"{adjective.comparative} as"))
        case 1:
            right = f"as {adjective.base} as"
            wrong = draw.pick((f"as {adjective.base} than", f"as {adjective.comparative} as"))
        case _:
            right, wrong = f"the {adjective.superlative} of", f"the {adjective.comparative} of"
            # A name, since a judge can't be the tallest of three pilots.
            one = draw.pick(draw.words.male_names + draw.words.female_names)
            two = f"the {draw.pick(('three', 'five'))} {draw.pick(draw.words.professions).plural}"
    return fill(f"{one} {be} {{}} {two}", right, wrong)


def existential(draw: Draw) -> Pair:
    """There were several teachers in the garden. / *There were most teachers in the garden."""
    noun = draw.pick(draw.words.people + draw.words.things)
    place = draw.place()
    if draw.below(3) == 0:
        be, weak, strong = "was", f"{draw.pick(('one', 'no'))} {noun.singular}", f"every {noun.singular}"
    else:
        be = "were"
        weak = f"{draw.pick(('two', 'several', 'many', 'no', 'some'))} {noun.plural}"
        strong = f"{draw.pick(('most', 'both'))} {noun.plural}"
    good = f"there {be} {weak} {place}" if draw.flip() else f"{strong} {be} {place}"
    return sentence(good), sentence(f"there {be} {strong} {place}")


def quantifier(draw: Draw) -> Pair:
    """All the teachers laughed yesterday. / *Many the teachers laughed yesterday."""
    noun = draw.pick(draw.words.people).plural
    idle = draw.pick(draw.words.intransitives).past
    tail = draw.pick(("yesterday", draw.place()))
    whole, part = draw.pick(("all", "both")), draw.pick(("many", "few"))
    if draw.flip():
        return fill(f"{{}} the {noun} {idle} {tail}", whole, part)
    # Not "so": "So all teachers laughed" passes for a conclusion.
    return fill(f"{draw.pick(('too', 'very'))} {{}} {noun} {idle} {tail}", part, whole)


def that_clause(draw: Draw) -> Pair:
    """Who did Mary say had repaired the lamp? / *Who did Mary say that had repaired the lamp?"""
    one, two = draw.two_people()
    clause = f"had {draw.pick(draw.words.thing_verbs).participle} {draw.thing()}"
    # Where a trace follows, "that" is wrong; in the other two frames it is needed. Half of each keeps it neutral.
    match draw.below(4):
        case 0:
            subject, other = draw.two(draw.words.people)
            frame = f"the {subject.singular} {draw.pick(draw.words.person_verbs).past} the {other.singular}"
            return sentence(f"{frame} that {clause}"), sentence(f"{frame} {clause}")
        case 1:
            feeling = f"{draw.pick(draw.words.feeling_verbs).past} {one}"
            return sentence(f"that {two} {clause} {feeling}"), sentence(f"{two} {clause} {feeling}")
        case _:
            verb = draw.pick(draw.words.bridge_verbs).base
            return question(f"who did {one} {verb} {clause}"), question(f"who did {one} {verb} that {clause}")
