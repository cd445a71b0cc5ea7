/**
 * A Potstill student for browsers and Node: texts in, classes and probabilities out. It needs no other file than the
 * weights, which hold the tokenizer and student.json too, and reaches no network.
 *
 *     import { Classifier } from "./potstill.js";
 *     const classifier = Classifier.load(await readFile("weights.safetensors"));   // or a fetched arrayBuffer()
 *     classifier.predict(["Where is my card?"]);   // [{label, probability, probabilities, truncated}]
 *
 * Each step does what potstill.predict does in Python; the names of the weights are those of the ONNX graph.
 */

const CHARACTERS_A_TOKEN = 16;
const SHORT = 1024;           // characters of a text that is encoded whole in any case
const CACHED_WORDS = 10_000;
// What Python's str.isspace() calls white space; JavaScript's own has U+FEFF, but not U+001C to U+001F and U+0085.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const SPACES = new RegExp(`${SPACE}+`), ONE_SPACE = new RegExp(SPACE, "g");

/** Text without the white space around it, as Python's str.strip() returns it. */
export function strip(text) {
  let start = 0, end = text.length;
  while (start < end && SPACES.test(text[start])) start++;
  while (end > start && SPACES.test(text[end - 1])) end--;
  return text.slice(start, end);
}

/* Characters are code points, as in Python */

function countCharacters(text) {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

function firstCharacters(text, most) {
  if (text.length <= most) return text;
  let end = 0;
  while (most-- > 0 && end < text.length) end += text.codePointAt(end) > 0xffff ? 2 : 1;
  return text.slice(0, end);
}

/* Tokens: byte-level BPE, as `tokenizers` computes it */

const PIECES = new RegExp("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
  + "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+", "gu");

/** GPT-2's character for each byte: itself where it is visible, else one from U+0100. */
function byteCharacters() {
  let others = 256;
  const isVisible = byte => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isVisible(byte) ? byte : others++));
}

export class Tokenizer {
  constructor({ model: { vocab, merges }, normalizer, pre_tokenizer: { add_prefix_space: addsSpace },
    post_processor: template }) {
    this.normalises = normalizer !== null;
    this.addsSpace = addsSpace;
    this.separator = Object.values(template?.special_tokens ?? {}).flatMap(token => token.ids);
    this.bytes = byteCharacters().map(character => vocab[character]);
    this.size = 1 + Math.max(...Object.values(vocab));
    this.ranks = new Map(merges.map(([one, other], rank) => [vocab[one] * this.size + vocab[other], rank]));
    this.merged = merges.map(([one, other]) => vocab[one + other]);
    this.words = new Map();
    this.encoder = new TextEncoder();
  }

  /** The ids of a text, or of a pair of texts, at most `longest`, and whether some were cut off. */
  encode(texts, longest) {
    if (texts.length === 1) {
      const { ids, count } = this.beginning(texts[0], longest);
      return { ids: ids.slice(0, longest), truncated: count > longest };
    }
    const room = Math.max(longest - this.separator.length, 0);
    const [one, other] = texts.map(text => this.beginning(text, longest));
    const truncated = one.count + other.count > room;
    let kept = [one.count, other.count];
    if (truncated) { // the shorter text keeps up to half of the room
      const shorter = Math.min(...kept, Math.floor(room / 2));
      kept = one.count <= other.count ? [shorter, room - shorter] : [room - shorter, shorter];
    }
    return { ids: [...one.ids.slice(0, kept[0]), ...this.separator, ...other.ids.slice(0, kept[1])], truncated };
  }

  /** The ids of as much of a text as decides the first `longest`, and how many the text has, by estimate if long. */
  beginning(text, longest) {
    const length = countCharacters(text);
    for (let size = Math.max(CHARACTERS_A_TOKEN * longest, SHORT); ; size *= 2) {
      if (length <= size) return (ids => ({ ids, count: ids.length }))(this.ids(text));
      const half = firstCharacters(text, size >> 1).length, part = firstCharacters(text, size);
      const spaces = [...part.slice(half).matchAll(ONE_SPACE)];
      const ids = this.ids(spaces.length ? part.slice(0, half + spaces.at(-1).index) : part);
      if (ids.length >= 2 * longest) return { ids, count: Math.round(ids.length * length / size) };
    }
  }

  ids(text) {
    text = text.replace(/\p{Surrogate}/gu, "\ufffd"); // halves of pairs
    if (this.normalises) text = text.normalize("NFC");
    if (this.addsSpace && text && !text.startsWith(" ")) text = ` ${text}`;
    return (text.match(PIECES) ?? []).flatMap(piece => this.word(piece));
  }

  word(piece) {
    let ids = this.words.get(piece);
    if (!ids) {
      ids = this.merge(Array.from(this.encoder.encode(piece), byte => this.bytes[byte]));
      if (this.words.size < CACHED_WORDS && piece.length < 64) this.words.set(piece, ids);
    }
    return ids;
  }

  merge(ids) {
    const rankOf = place => this.ranks.get(ids[place] * this.size + ids[place + 1]) ?? Infinity;
    const ranks = ids.map((_, place) => rankOf(place));
    for (;;) {
      let place = 0;
      for (let other = 1; other < ids.length; other++) if (ranks[other] < ranks[place]) place = other;
      if (!(ranks[place] < Infinity)) return ids;
      ids.splice(place, 2, this.merged[ranks[place]]);
      ranks.splice(place, 1);
      ranks[place] = rankOf(place);
      if (place) ranks[place - 1] = rankOf(place - 1);
    }
  }
}

/* Hashed n-grams, as potstill.predict.ngrams computes them; numbers of 64 bits are two of 32 */

const LENGTHS = [2, 3, 4, 5], WORD = 0, WORDS = 1, PIECE = 2;
const BASE = 0x9e3779b97f4a7c15n, MIX_LOW = 0x1ce4e5b9, MIX_HIGH = 0xbf58476d;
const powersLow = [], powersHigh = []; // of BASE, modulo 2^64
let lastPower = 1n;

function hashPart(codes, start, end) {
  let low = 0, high = 0;
  for (let place = start; place < end; place++) {
    for (; powersLow.length <= place - start; lastPower = BigInt.asUintN(64, lastPower * BASE)) {
      powersLow.push(Number(lastPower & 0xffffffffn));
      powersHigh.push(Number(lastPower >> 32n));
    }
    const product = (codes[place] + 1) * powersLow[place - start]; // below 2^53
    low += product >>> 0;
    high = high + (product - (product >>> 0)) / 2 ** 32 + Math.imul(codes[place] + 1, powersHigh[place - start])
      + (low > 0xffffffff ? 1 : 0) | 0;
    low >>>= 0;
  }
  return [low, high];
}

function rowOf([low, high], kind, isSecond, bits) {
  low ^= kind ^ (isSecond ? MIX_LOW : 0);
  high ^= isSecond ? MIX_HIGH : 0;
  [low, high] = [(low ^ (high << 1 | low >>> 31)) >>> 0, high ^ high >>> 31];
  const carried = Math.floor(((low >>> 16) * MIX_LOW + Math.floor((low & 0xffff) * MIX_LOW / 65536)) / 65536);
  return (carried + Math.imul(low, MIX_HIGH) + Math.imul(high, MIX_LOW)) >>> (32 - bits);
}

/** Rows of the table and weights of the n-grams of a text, or of a pair of texts. */
export function hashNgrams(texts, buckets, longest) {
  const bits = 31 - Math.clz32(buckets), words = [], pieces = [];
  texts.forEach((text, second) => {
    const cut = firstCharacters(text, CHARACTERS_A_TOKEN * longest).toLowerCase();
    const codes = Array.from(` ${cut.split(SPACES).filter(Boolean).join(" ")} `, character => character.codePointAt(0));
    const isSpace = code => code <= 32;
    const isGap = code => code < 128 && !/[0-9A-Za-z']/.test(String.fromCharCode(code));
    let before = -1, start = -1;
    codes.forEach((code, place) => {
      if (place && !isGap(code) && isGap(codes[place - 1])) start = place;
      if (place && isGap(code) && !isGap(codes[place - 1])) {
        words.push(rowOf(hashPart(codes, start, place), WORD, second, bits));
        if (before >= 0) words.push(rowOf(hashPart(codes, before, place), WORDS, second, bits));
        before = start;
      }
      for (const length of LENGTHS) {
        if (place + length > codes.length || (isSpace(code) && isSpace(codes[place + 1]))
          || (length > 2 && isSpace(codes[place + length - 2]))) break;
        pieces.push(rowOf(hashPart(codes, place, place + length), PIECE, second, bits));
      }
    });
  });
  const weight = rows => rows.map(() => Math.fround(1 / Math.sqrt(rows.length)));
  return { rows: [...words, ...pieces], weights: [...weight(words), ...weight(pieces)] };
}

