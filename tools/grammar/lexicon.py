"""The words of the grammar, in two lists that share no open-class word, nor one that is derived from another's.

Every list holds words that can stand for each other: any member makes sense wherever the grammar uses the list.
So all `things` are durable objects that all `thing_verbs` fit, and nothing here needs a finer selectional restriction.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from tools.grammar.morphology import Adjective, Noun, Verb, long_adjective, noun, short_adjective, verb


@dataclass(frozen=True)
class Lexicon:
    """The open-class words of one part of the corpus.

    Attributes:
        male_names: First names of men and boys.
        female_names: First names of women and girls.
        males: Nouns for men and boys.
        females: Nouns for women and girls.
        professions: Nouns for people of either gender.
        relations: Nouns that take "of" and a person.
        things: Durable objects.
        places: What people and things can be in.
        landmarks: What people can stand by.
        mass_nouns: Nouns without a plural, for what can be in a place.
        contents: Nouns for what can be made known.
        gifts: Small objects that people give each other.
        reports: Nouns that take a that-clause.
        person_verbs: Transitive only; people do it to people.
        reflexive_verbs: Transitive; people do it to themselves.
        thing_verbs: Transitive only; people do it to things.
        intransitives: Intransitive only; people do it.
        irregulars: Verbs whose past and participle differ, each with objects that fit.
        bridge_verbs: Take a that-clause that a question word can leave.
        question_verbs: Take an embedded question.
        perception_verbs: Transitive; people do it to whatever is in a place.
        report_verbs: Take a noun from `reports` as object.
        raising_verbs: Their subject may be "it" or "there".
        hoping_verbs: Take a that-clause or an infinitive, and a person as subject.
        gerund_verbs: Take a gerund, no infinitive.
        infinitive_verbs: Take an infinitive, no gerund.
        giving_verbs: Take a gift and a person.
        telling_verbs: Take an item of `contents` and "to" with a person, no double object.
        feeling_verbs: Take a clause as subject and a person as object.
        short_adjectives: For people; graded by endings.
        long_adjectives: For people; graded by "more" and "most".
        thing_adjectives: For things.
        manners: Adverbs of manner for `thing_verbs`.
        periods: Nouns for how often something happens, after "every".
    """

    male_names: tuple[str, ...]
    female_names: tuple[str, ...]
    males: tuple[Noun, ...]
    females: tuple[Noun, ...]
    professions: tuple[Noun, ...]
    relations: tuple[Noun, ...]
    things: tuple[Noun, ...]
    places: tuple[str, ...]
    landmarks: tuple[str, ...]
    mass_nouns: tuple[str, ...]
    contents: tuple[str, ...]
    gifts: tuple[str, ...]
    reports: tuple[str, ...]
    person_verbs: tuple[Verb, ...]
    reflexive_verbs: tuple[Verb, ...]
    thing_verbs: tuple[Verb, ...]
    intransitives: tuple[Verb, ...]
    irregulars: tuple[tuple[Verb, tuple[Noun, ...]], ...]
    bridge_verbs: tuple[Verb, ...]
    question_verbs: tuple[Verb, ...]
    perception_verbs: tuple[Verb, ...]
    report_verbs: tuple[Verb, ...]
    raising_verbs: tuple[Verb, ...]
    hoping_verbs: tuple[Verb, ...]
    gerund_verbs: tuple[Verb, ...]
    infinitive_verbs: tuple[Verb, ...]
    giving_verbs: tuple[Verb, ...]
    telling_verbs: tuple[Verb, ...]
    feeling_verbs: tuple[Verb, ...]
    short_adjectives: tuple[Adjective, ...]
    long_adjectives: tuple[Adjective, ...]
    thing_adjectives: tuple[str, ...]
    manners: tuple[str, ...]
    periods: tuple[str, ...]

    @property
    def people(self) -> tuple[Noun, ...]:
        """List all nouns for people that need no complement."""
        return tuple(chain(self.males, self.females, self.professions))

    @property
    def adjectives(self) -> tuple[Adjective, ...]:
        """List all adjectives for people."""
        return self.short_adjectives + self.long_adjectives


def _words(entries: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in entries.split(","))


def _nouns(entries: str) -> tuple[Noun, ...]:
    return tuple(noun(entry) for entry in _words(entries))


def _verbs(entries: str) -> tuple[Verb, ...]:
    return tuple(verb(entry) for entry in _words(entries))


def _verbs_with_objects(lines: str) -> tuple[tuple[Verb, tuple[Noun, ...]], ...]:
    halves = (line.split(":") for line in lines.strip().splitlines())
    return tuple((verb(head), _nouns(objects)) for head, objects in halves)


TRAIN = Lexicon(
    male_names=_words("John, Peter, David, Thomas, Robert, Michael, Paul, George, Oliver, Martin"),
    female_names=_words("Mary, Susan, Anna, Laura, Helen, Julia, Emma, Alice, Clara, Sophie"),
    males=_nouns("boy, king, uncle, brother, father, grandfather"),
    females=_nouns("girl, queen, aunt, sister, mother, grandmother"),
    professions=_nouns(
        "teacher, doctor, lawyer, nurse, student, pilot, farmer, driver, singer, writer, baker, judge, engineer, "
        "painter, soldier, tourist, dancer, banker, plumber, guard, secretary, mayor"
    ),
    relations=_nouns("friend, neighbor, assistant"),
    things=_nouns(
        "lamp, chair, clock, vase, radio, bicycle, violin, camera, table, mirror, carpet, statue, bench, trumpet, "
        "umbrella, armchair, oven, engine"
    ),
    places=_words("garden, kitchen, library, park, classroom"),
    landmarks=_words("door, river, bridge, fountain"),
    mass_nouns=_words("furniture, equipment, luggage, mud, rubbish"),
    contents=_words("rule, problem, method, answer"),
    gifts=_words("book, pencil, ticket, photograph, necklace"),
    reports=_words("rumor, claim, story"),
    person_verbs=_verbs("praise, thank, hire, greet, criticize, blame, applaud, interview, rescue"),
    reflexive_verbs=_verbs("praise, admire, criticize, blame, injure, disguise"),
    thing_verbs=_verbs("repair, damage, destroy, inspect, carry, describe, discard, polish, admire"),
    intransitives=_verbs("laugh, sneeze, snore, sleep slept slept, smile, faint, cough, yawn, wait, complain, shiver"),
    irregulars=_verbs_with_objects(
        """
        write wrote written: letter, poem, essay
        break broke broken: plate, cup, bottle
        eat ate eaten: cake, apple, sandwich
        drive drove driven: truck, van, taxi
        steal stole stolen: wallet, ring, jewel
        tear tore torn: shirt, envelope, sheet
        """
    ),
    bridge_verbs=_verbs("say said said, think thought thought, believe, claim"),
    question_verbs=_verbs("wonder, ask, know knew known"),
    perception_verbs=_verbs("see saw seen"),
    report_verbs=_verbs("believe, hear heard heard, deny"),
    raising_verbs=_verbs("seem"),
    hoping_verbs=_verbs("hope, decide, expect"),
    gerund_verbs=_verbs("enjoy, finish, avoid"),
    infinitive_verbs=_verbs("refuse, hope, decide, promise"),
    giving_verbs=_verbs("show showed shown, send sent sent, bring brought brought"),
    telling_verbs=_verbs("explain, mention"),
    feeling_verbs=_verbs("surprise, annoy, worry"),
    short_adjectives=tuple(map(short_adjective, _words("tall, young, old, strong, rich, brave, kind, weak"))),
    long_adjectives=tuple(map(long_adjective, _words("intelligent, generous, patient, famous, curious, careful"))),
    thing_adjectives=_words("expensive, modern, beautiful, heavy, new, small"),
    manners=_words("quickly, carefully, patiently, gladly, eagerly"),
    periods=_words("morning, week, winter"),
)

HELDOUT = Lexicon(
    male_names=_words("James, Daniel, Simon, Henry, Kevin"),
    female_names=_words("Sarah, Linda, Nancy, Karen, Rachel"),
    males=_nouns("man men, prince, monk, duke, nephew, gentleman gentlemen"),
    females=_nouns("woman women, princess, nun, duchess, niece, lady"),
    professions=_nouns("artist, scientist, manager, chef, tailor, sailor, journalist, detective, clerk, professor"),
    relations=_nouns("cousin, colleague, rival"),
    things=_nouns("piano, guitar, sofa, computer, basket, kettle, machine, telescope, drum, instrument, ornament"),
    places=_words("office, museum, yard"),
    landmarks=_words("window, gate, lake"),
    mass_nouns=_words("jewelry, dust, clothing"),
    contents=_words("plan, secret, decision"),
    gifts=_words("hammer, medal, coin"),
    reports=_words("theory, allegation"),
    person_verbs=_verbs("congratulate, defend, punish, insult, tease, comfort, dismiss"),
    reflexive_verbs=_verbs("defend, punish, insult, comfort, embarrass"),
    thing_verbs=_verbs("restore, wreck, ruin, remove, replace, conceal, select, transport, handle"),
    intransitives=_verbs("giggle, doze, tremble, blush, limp, kneel knelt knelt, weep wept wept, linger"),
    irregulars=_verbs_with_objects(
        """
        draw drew drawn: map, portrait
        throw threw thrown: ball, stone
        wear wore worn: hat, coat
        ride rode ridden: horse, pony
        choose chose chosen: color, prize
        """
    ),
    bridge_verbs=_verbs("assume, suspect, imagine"),
    question_verbs=_verbs("inquire, remember, investigate"),
    perception_verbs=_verbs("notice"),
    report_verbs=_verbs("reject, doubt"),
    raising_verbs=_verbs("appear"),
    hoping_verbs=_verbs("vow, agree, wish"),
    gerund_verbs=_verbs("postpone, consider, resist"),
    infinitive_verbs=_verbs("agree, vow, hesitate"),
    giving_verbs=_verbs("hand, offer, mail"),
    telling_verbs=_verbs("reveal, announce"),
    feeling_verbs=_verbs("amuse, disturb, disappoint"),
    short_adjectives=tuple(map(short_adjective, _words("smart, poor, proud, calm, bold, short, tough"))),
    long_adjectives=tuple(map(long_adjective, _words("talented, ambitious, stubborn, nervous, cheerful"))),
    thing_adjectives=_words("cheap, large, dusty, elegant, precious, ancient"),
    manners=_words("slowly, hastily, promptly, reluctantly, silently"),
    periods=_words("night, summer, month"),
)
