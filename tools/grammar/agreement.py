"""Phenomena in which one word must match another: number, gender, case, polarity."""

from __future__ import annotations

from tools.grammar.morphology import with_article
from tools.grammar.sampling import Draw, Pair, fill, question, sentence

CASES = (("I", "me"), ("he", "him"), ("she", "her"), ("they", "them"), ("we", "us"))
SINGULAR_DETERMINERS = ("this", "that", "every", "each", "one")
PLURAL_DETERMINERS = ("these", "those", "many", "several", "two")


def subject_verb(draw: Draw) -> Pair:
    """The teachers are tall. / *The teachers is tall."""
    plural = draw.flip()
    if draw.below(4) == 0:
        first, second = draw.two(draw.words.male_names + draw.words.female_names)
        subject = f"{first} and {second}" if plural else first
    else:
        adjective = f"{draw.pick(draw.words.adjectives).base} " if draw.flip() else ""
        subject = f"the {adjective}{draw.pick(draw.words.people).form(plural)}"
    singular_form, plural_form = _predicate(draw)
    good, bad = (plural_form, singular_form) if plural else (singular_form, plural_form)
    return fill(f"{subject} {{}}", good, bad)


def distant_subject_verb(draw: Draw) -> Pair:
    """The friend of the teachers is tall. / *The friend of the teachers are tall."""
    plural = draw.flip()
    head, attractor = draw.two(draw.words.people)
    act = draw.pick(draw.words.person_verbs)
    match draw.below(3):
        case 0:
            relation = draw.pick(draw.words.relations)
            subject = f"the {relation.form(plural)} of the {attractor.form(not plural)}"
        case 1:
            subject = f"the {head.form(plural)} that the {attractor.form(not plural)} {act.present(not plural)}"
        case _:
            subject = f"the {head.form(plural)} who {act.present(plural)} the {attractor.form(not plural)}"
    singular_form, plural_form = _predicate(draw)
    good, bad = (plural_form, singular_form) if plural else (singular_form, plural_form)
    return fill(f"{subject} {{}}", good, bad)


def _predicate(draw: Draw) -> Pair:
    """Choose a predicate for people and return it for a singular and for a plural subject."""
    act = draw.pick(draw.words.intransitives)
    match draw.below(4):
        case 0:
            period = draw.pick(draw.words.periods)
            return f"{act.third} every {period}", f"{act.base} every {period}"
        case 1:
            adjective = draw.pick(draw.words.adjectives).base
            return f"is {adjective}", f"are {adjective}"
        case 2:
            return f"was {act.ing}", f"were {act.ing}"
        case _:
            return f"has {act.participle}", f"have {act.participle}"


def reflexive_agreement(draw: Draw) -> Pair:
    """The girl praised herself. / *The girl praised himself."""
    subject, good = _antecedent(draw, draw.below(3))
    bad = draw.pick([form for form in ("himself", "herself", "themselves") if form != good])
    act = draw.pick(draw.words.reflexive_verbs).past
    tail = draw.pick(("", " yesterday", f" {draw.place()}"))
    return fill(f"{subject} {act} {{}}{tail}", good, bad)


def reflexive_locality(draw: Draw) -> Pair:
    """Mary thought that the boys had praised themselves. / *Mary thought that the boys had praised herself."""
    outer_kind, inner_kind = draw.two((0, 1, 2))
    relative = draw.flip()
    outer, outer_reflexive = _antecedent(draw, outer_kind, names=not relative)
    inner, inner_reflexive = _antecedent(draw, inner_kind)
    act = draw.pick(draw.words.reflexive_verbs)
    if relative:
        other_act = draw.pick([verb for verb in draw.words.person_verbs if verb != act])
        return fill(f"{outer} that {inner} {other_act.past} {act.past} {{}}", outer_reflexive, inner_reflexive)
    frame = f"{outer} {draw.pick(draw.words.bridge_verbs).past} that {inner} had {act.participle} {{}}"
    return fill(frame, inner_reflexive, outer_reflexive)


def _antecedent(draw: Draw, kind: int, *, names: bool = True) -> Pair:
    """Choose somebody male (0), female (1) or several people (2), with the reflexive that refers to them."""
    if kind == 2:
        return f"the {draw.pick(draw.words.people).plural}", "themselves"
    gender_names, nouns = (
        (draw.words.male_names, draw.words.males),
        (draw.words.female_names, draw.words.females),
    )[kind]
    subject = draw.pick(gender_names) if names and draw.flip() else f"the {draw.pick(nouns).singular}"
    return subject, ("himself", "herself")[kind]


def determiner_noun(draw: Draw) -> Pair:
    """Mary repaired these lamps. / *Mary repaired these lamp."""
    if draw.below(3) == 0:
        right = with_article(draw.pick(draw.words.things).singular)
        article, _, rest = right.partition(" ")
        wrong = f"{'a' if article == 'an' else 'an'} {rest}"
    else:
        plural = draw.flip()
        noun = draw.pick(draw.words.things)
        matching, clashing = SINGULAR_DETERMINERS, PLURAL_DETERMINERS
        if plural:
            matching, clashing = clashing, matching
        determiner = draw.pick(matching)
        right = f"{determiner} {noun.form(plural)}"
        wrong = f"{determiner} {noun.form(not plural)}" if draw.flip() else f"{draw.pick(clashing)} {noun.form(plural)}"
    return fill(f"{draw.person()} {draw.pick(draw.words.thing_verbs).past} {{}}", right, wrong)


def mass_count(draw: Draw) -> Pair:
    """There was too much furniture in the kitchen. / *There was too many furniture in the kitchen."""
    mass = draw.flip()
    noun = draw.pick(draw.words.mass_nouns) if mass else draw.pick(draw.words.things).plural
    right, wrong = ("much", "many") if mass else ("many", "much")
    degree, see = draw.pick(("too", "so")), draw.pick(draw.words.perception_verbs)
    person, place = draw.person(), draw.place()
    match draw.below(3):
        case 0:
            return fill(f"there {'was' if mass else 'were'} {degree} {{}} {noun} {place}", right, wrong)
        case 1:
            return fill(f"{person} {see.past} {degree} {{}} {noun} {place}", right, wrong)
        case _:
            return fill(f"how {{}} {noun} did {person} {see.base} {place}", right, wrong, end="?")


def pronoun_case(draw: Draw) -> Pair:
    """The teacher praised him. / *The teacher praised he."""
    subject_form, object_form = draw.pick(CASES)
    act = draw.pick(draw.words.person_verbs).past
    person = draw.person()
    tail = draw.pick(("", " yesterday", f" {draw.place()}"))
    if draw.flip():
        return fill(f"{{}} {act} {person}{tail}", subject_form, object_form)
    return fill(f"{person} {act} {{}}{tail}", object_form, subject_form)


def relative_pronoun(draw: Draw) -> Pair:
    """The boy who had laughed polished the lamp. / *The boy which had laughed polished the lamp."""
    person = f"the {draw.pick(draw.words.people).singular}"
    act = draw.pick(draw.words.thing_verbs).past
    thing = draw.thing()
    if draw.flip():
        did = draw.pick(draw.words.intransitives).participle
        return fill(f"{person} {{}} had {did} {act} {thing}", "who", "which")
    adjective = draw.pick(draw.words.thing_adjectives)
    return fill(f"{thing} {{}} {person} {act} was {adjective}", "which", "who")


def tag_question(draw: Draw) -> Pair:
    """Mary laughed, didn't she? / *Mary laughed, wasn't she?"""
    female = draw.flip()
    names, nouns = (draw.words.male_names, draw.words.males)
    if female:
        names, nouns = (draw.words.female_names, draw.words.females)
    subject = draw.pick(names) if draw.flip() else f"the {draw.pick(nouns).singular}"
    pronoun, other_pronoun = ("she", "he") if female else ("he", "she")
    act = draw.pick(draw.words.intransitives)
    statements = {"didn't": act.past, "wasn't": f"was {act.ing}", "hasn't": f"has {act.participle}"}
    auxiliary, other_auxiliary = draw.two(tuple(statements))
    wrong = f"{auxiliary} {other_pronoun}" if draw.flip() else f"{other_auxiliary} {pronoun}"
    return fill(f"{subject} {statements[auxiliary]}, {{}}", f"{auxiliary} {pronoun}", wrong, end="?")


def negative_polarity(draw: Draw) -> Pair:
    """No boy that the king hired has ever laughed. / *The boy that no king hired has ever laughed."""
    one, two = draw.two(draw.words.people)
    act, first = draw.pick(draw.words.person_verbs), draw.pick(draw.words.intransitives)
    use, noun = draw.pick(draw.words.thing_verbs), draw.pick(draw.words.things)
    match draw.below(3):
        case 0:
            tail = f"has ever {first.participle}"
            return (
                sentence(f"no {one.singular} that the {two.singular} {act.past} {tail}"),
                sentence(f"the {one.singular} that no {two.singular} {act.past} {tail}"),
            )
        case 1:
            return (
                sentence(f"the {one.singular} who {first.past} did not {use.base} any {noun.plural}"),
                sentence(f"the {one.singular} who did not {first.base} {use.past} any {noun.plural}"),
            )
        case _:
            tail = f"ever {first.participle} {draw.place()}"
            return question(f"has the {one.singular} {tail}"), sentence(f"the {one.singular} has {tail}")
