"""Phenomena of order, displacement and omission: what may move, where it may go, what may stay unsaid."""

from __future__ import annotations

from tools.grammar.sampling import Draw, Pair, fill, question, sentence


def wh_island(draw: Draw) -> Pair:
    """Who wondered what the boy had repaired? / *What did the boy wonder who had repaired?"""
    one, two = draw.two_people()
    wonder = draw.pick(draw.words.question_verbs)
    act, thing = draw.pick(draw.words.thing_verbs).participle, draw.thing()
    match draw.below(3):
        case 0:
            return (
                question(f"who {wonder.past} what {two} had {act}"),
                question(f"what did {two} {wonder.base} who had {act}"),
            )
        case 1:
            return (
                question(f"did {one} {wonder.base} whether {two} had {act} {thing}"),
                question(f"what did {one} {wonder.base} whether {two} had {act}"),
            )
        case _:
            return (
                question(f"did {one} {wonder.base} what {two} had {act}"),
                question(f"what did {one} {wonder.base} who had {act}"),
            )


def complex_np_island(draw: Draw) -> Pair:
    """What did the girl who praised Mary repair? / *What did the girl who repaired praise Mary?"""
    one, two = draw.two(draw.words.people)
    act, thing = draw.pick(draw.words.thing_verbs), draw.thing()
    if draw.flip():
        praise = draw.pick(draw.words.person_verbs)
        return (
            question(f"what did the {one.singular} who {praise.past} the {two.singular} {act.base}"),
            question(f"what did the {one.singular} who {act.past} {praise.base} the {two.singular}"),
        )
    report = f"the {draw.pick(draw.words.reports)} that the {two.singular} had {act.participle}"
    verb = draw.pick(draw.words.report_verbs)
    return (
        question(f"did the {one.singular} {verb.base} {report} {thing}"),
        question(f"what did the {one.singular} {verb.base} {report}"),
    )


def adjunct_island(draw: Draw) -> Pair:
    """What did Mary repair before the boy laughed? / *What did Mary laugh before the boy repaired?"""
    one, two = draw.two_people()
    act, idle = draw.pick(draw.words.thing_verbs), draw.pick(draw.words.intransitives)
    link = draw.pick(("before", "after", "because"))
    return (
        question(f"what did {one} {act.base} {link} {two} {idle.past}"),
        question(f"what did {one} {idle.base} {link} {two} {act.past}"),
    )


def coordinate_island(draw: Draw) -> Pair:
    """What did Mary carry and Paul repair? / *What did Mary carry and Paul repair the lamp?"""
    one, two = draw.two_people()
    first, second = draw.two(draw.words.thing_verbs)
    noun, other = draw.two(draw.words.things)
    if draw.flip():
        clause = f"what did {one} {first.base} and {two} {second.base}"
        return question(clause), question(f"{clause} the {noun.singular}")
    return (
        question(f"did {one} {first.base} the {noun.singular} and the {other.singular}"),
        question(f"what did {one} {first.base} the {noun.singular} and"),
    )


def filled_gap(draw: Draw) -> Pair:
    """The lamp that Mary repaired was new. / *The lamp that Mary repaired it was new."""
    one, two = draw.two_people()
    first, second = draw.two(draw.words.thing_verbs)
    thing = draw.thing()
    match draw.below(3):
        case 0:
            adjective = draw.pick(draw.words.thing_adjectives)
            return (
                sentence(f"{thing} that {one} {first.past} was {adjective}"),
                sentence(f"{thing} that {one} {first.past} it was {adjective}"),
            )
        case 1:
            clause = f"{one} {first.past} {thing} before {two} {second.past}"
            return sentence(f"{clause} it"), sentence(clause)
        case _:
            verb = draw.pick(draw.words.bridge_verbs).base
            clause = f"what did {one} {verb} that {two} had {first.participle}"
            return question(clause), question(f"{clause} {thing}")


def inversion(draw: Draw) -> Pair:
    """What will the teacher repair? / *What the teacher will repair?"""
    one, two = draw.two_people()
    act = draw.pick(draw.words.thing_verbs).base
    modal = draw.pick(("would", "could", "should"))
    if draw.flip():
        return question(f"what {modal} {one} {act}"), question(f"what {one} {modal} {act}")
    frame = f"{one} {draw.pick(draw.words.question_verbs).past} what"
    return sentence(f"{frame} {two} {modal} {act}"), sentence(f"{frame} {modal} {two} {act}")


def inversion_across_clause(draw: Draw) -> Pair:
    """Is the boy who has sneezed laughing? / *Has the boy who sneezed is laughing?"""
    person = f"the {draw.pick(draw.words.people).singular}"
    first, second = draw.two(draw.words.intransitives)
    if draw.flip():
        return (
            question(f"is {person} who has {first.participle} {second.ing}"),
            question(f"has {person} who {first.participle} is {second.ing}"),
        )
    return (
        question(f"has {person} who is {first.ing} {second.participle}"),
        question(f"is {person} who {first.ing} has {second.participle}"),
    )


def adjective_position(draw: Draw) -> Pair:
    """The tall teacher repaired the lamp. / *The teacher tall repaired the lamp."""
    person, trait = draw.pick(draw.words.people).form(draw.flip()), draw.pick(draw.words.adjectives).base
    plural = draw.flip()
    thing, quality = draw.pick(draw.words.things).form(plural), draw.pick(draw.words.thing_adjectives)
    act = draw.pick(draw.words.thing_verbs).past
    match draw.below(3):
        case 0:
            tail = f"{act} the {thing}"
            return sentence(f"the {trait} {person} {tail}"), sentence(f"the {person} {trait} {tail}")
        case 1:
            # The adjective before the article: after the noun it could pass for a result, as in "wiped the table dry".
            head = f"the {person} {act}"
            return sentence(f"{head} the {quality} {thing}"), sentence(f"{head} {quality} the {thing}")
        case _:
            tail = f"{'were' if plural else 'was'} {draw.place()}"
            return sentence(f"the {quality} {thing} {tail}"), sentence(f"the {thing} {quality} {tail}")


def adverb_position(draw: Draw) -> Pair:
    """The teacher quickly repaired the lamp. / *The teacher repaired quickly the lamp."""
    person, thing = draw.person(), draw.thing()
    act, adverb = draw.pick(draw.words.thing_verbs), draw.pick(draw.words.manners)
    match draw.below(3):
        case 0:
            return (
                sentence(f"{person} {adverb} {act.past} {thing}"),
                sentence(f"{person} {act.past} {adverb} {thing}"),
            )
        case 1:
            return (
                sentence(f"{person} has {adverb} {act.participle} {thing}"),
                sentence(f"{person} has {act.participle} {adverb} {thing}"),
            )
        case _:
            always = draw.pick(("always", "often", "never"))
            return (
                sentence(f"{person} {always} {act.past} {thing}"),
                sentence(f"{person} {act.past} {always} {thing}"),
            )


def verb_phrase_ellipsis(draw: Draw) -> Pair:
    """Mary inspected the lamp, and Paul did too. / *Mary inspected the lamp, and Paul was too."""
    one, two = draw.two_people()
    act, thing = draw.pick(draw.words.thing_verbs), draw.thing()
    trait = draw.pick(draw.words.adjectives).base
    # Only "be" with an adjective against the rest: "had left" may well be taken up by "did", and "left" by "had not".
    doing, doing_predicate, being = draw.pick(
        (
            ("did", f"{act.past} {thing}", "was"),
            ("has", f"has {act.participle} {thing}", "is"),
        )
    )
    if draw.flip():
        predicate, right, wrong = doing_predicate, doing, being
    else:
        predicate, right, wrong = f"{being} {trait}", being, doing
    link, tail = draw.pick((("and", "too"), ("but", "not")))
    return fill(f"{one} {predicate}, {link} {two} {{}} {tail}", right, wrong)


def so_neither(draw: Draw) -> Pair:
    """Mary laughed, and so did Paul. / *Mary laughed, and neither did Paul."""
    one, two = draw.two_people()
    idle = draw.pick(draw.words.intransitives)
    auxiliary, form, affirmative = draw.pick(
        (
            ("was", idle.ing, f"was {idle.ing}"),
            ("has", idle.participle, f"has {idle.participle}"),
            ("did", idle.base, idle.past),
        )
    )
    right, wrong, statement = "so", "neither", affirmative
    if draw.flip():
        right, wrong, statement = "neither", "so", f"{auxiliary} not {form}"
    return fill(f"{one} {statement}, and {{}} {auxiliary} {two}", right, wrong)


def gapping(draw: Draw) -> Pair:
    """Mary repaired the lamp, and Paul the chair. / *Mary the lamp, and Paul repaired the chair."""
    one, two = draw.two_people()
    first, second = (f"the {noun.singular}" for noun in draw.two(draw.words.things))
    act = draw.pick(draw.words.thing_verbs).past
    if draw.flip():
        return (
            sentence(f"{one} {act} {first}, and {two} {second}"),
            sentence(f"{one} {first}, and {two} {act} {second}"),
        )
    speaker = f"the {draw.pick(draw.words.relations).plural} {draw.pick(draw.words.bridge_verbs).past} that"
    return (
        sentence(f"{speaker} {one} {act} {first}, and {two} {second}"),
        sentence(f"{one} {act} {first}, and {speaker} {two} {second}"),
    )
