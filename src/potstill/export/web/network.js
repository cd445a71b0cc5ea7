const LANES = 4; // texts that are computed at once: the numbers in a vector of WebAssembly
const BLOCK = 8; // rows of a matrix that are computed at once

/* Weights */

function readSafetensors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = Number(view.getBigUint64(0, true));
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const raw = Object.fromEntries(Object.entries(entries).map(([name, { dtype, shape, data_offsets: [start, end] }]) => {
    const content = bytes.buffer.slice(...[start, end].map(place => bytes.byteOffset + 8 + size + place));
    const values = { F32: Float32Array, F16: Uint16Array, I8: Int8Array }[dtype];
    return [name, { shape, values: dtype === "F16" ? fromHalf(new values(content)) : new values(content) }];
  }));
  for (const [name, { values }] of Object.entries(raw)) {
    const scales = raw[`${name}.scale`]?.values;
    if (!scales) continue;
    const read = raw[name].values = new Float32Array(values.length);
    for (let place = 0; place < read.length; place++) read[place] = values[place] * scales[place >> 5];
  }
  return { tensors: raw, metadata };
}

function fromHalf(halves) {
  const table = Float32Array.from({ length: 1 << 15 }, (_, bits) => bits < 1024 ? bits * 2 ** -24
    : (1024 + (bits & 1023)) * 2 ** ((bits >> 10) - 25));
  const values = new Float32Array(halves.length);
  halves.forEach((bits, place) => { values[place] = bits & 0x8000 ? -table[bits & 0x7fff] : table[bits]; });
  return values;
}

/* Products of matrices and LANES vectors, in one memory: an array of vectors is [number][lane] */

/** WebAssembly for y += W x, from its opcodes (https://webassembly.github.io/spec/core/binary); W is in blocks. */
function productKernel(memory) {
  const leb = number => number < 128 ? [number] : [number & 127 | 128, ...leb(number >>> 7)];
  const sized = bytes => [...leb(bytes.length), ...bytes];
  const section = (id, ...items) => [id, ...sized([items.length, ...items.flat()])];
  const I32 = 0x7f, V128 = 0x7b, EMPTY = 0x40, LOOP = 0x03, END = 0x0b;
  const W = 0, X = 1, Y = 2, BLOCKS = 3, COLUMNS = 4, place = 5, left = 6, sum = 7, input = sum + BLOCK;
  const get = local => [0x20, local], set = local => [0x21, local];
  const load = offset => [0xfd, 0x00, 4, ...leb(offset)], splat = offset => [0xfd, 0x09, 2, ...leb(offset)];
  const store = offset => [0xfd, 0x0b, 4, ...leb(offset)], multiply = [0xfd, 0xe6, 1], add = [0xfd, 0xe4, 1];
  const advance = (local, bytes) => [...get(local), 0x41, ...leb(bytes), 0x6a, ...set(local)]; // bytes < 64 or > 127
  const repeat = counter => [...get(counter), 0x41, 1, 0x6b, 0x22, counter, 0x0d, 0]; // br_if --counter
  const rows = code => Array.from({ length: BLOCK }, (_, row) => code(row)).flat();
  const body = [2, 2, I32, BLOCK + 1, V128,
    LOOP, EMPTY,
    ...rows(row => [...get(Y), ...load(16 * row), ...set(sum + row)]),
    ...get(X), ...set(place), ...get(COLUMNS), ...set(left),
    LOOP, EMPTY,
    ...get(place), ...load(0), ...set(input),
    ...rows(row => [...get(sum + row), ...get(W), ...splat(4 * row), ...get(input), ...multiply, ...add,
      ...set(sum + row)]),
    ...advance(W, 4 * BLOCK), ...advance(place, 16), ...repeat(left), END,
    ...rows(row => [...get(Y), ...get(sum + row), ...store(16 * row)]),
    ...advance(Y, 16 * BLOCK), ...repeat(BLOCKS), END, END];
  const module = new WebAssembly.Module(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [0x60, ...sized(Array(5).fill(I32)), 0]), ...section(2, [1, 0x61, 1, 0x61, 2, 0, 1]),
    ...section(3, [0]), ...section(7, [1, 0x61, 0, 0]), ...section(10, sized(body))]));
  return new WebAssembly.Instance(module, { a: { a: memory } }).exports.a;
}

/** The same without WebAssembly, which some browsers forbid: a tenth as fast. */
function plainKernel({ buffer }) {
  const all = new Float32Array(buffer);
  return (w, x, y, blocks, columns) => {
    for (let i = 0; i < blocks * BLOCK * LANES; i++) {
      const row = Math.floor(i / LANES), start = w / 4 + (row - row % BLOCK) * columns + row % BLOCK;
      for (let column = 0; column < columns; column++) {
        all[y / 4 + i] += all[start + column * BLOCK] * all[x / 4 + column * LANES + i % LANES];
      }
    }
  };
}

class Memory {
  constructor() {
    this.size = 0;
    this.fillers = [];
  }

  /** Plan y = W x + b; `x` and `y` of the result are its vectors, once `fill` has been called. */
  linear(weights, [rows, columns], bias, transposed = false) {
    const blocks = Math.ceil(rows / BLOCK), place = this.size, x = place + 4 * blocks * BLOCK * columns;
    const y = x + 4 * LANES * columns, at = transposed ? (r, c) => c * rows + r : (r, c) => r * columns + c;
    this.size = y + 4 * LANES * blocks * BLOCK;
    const linear = {};
    this.fillers.push((buffer, kernel) => {
      const blocked = new Float32Array(buffer, place, blocks * BLOCK * columns);
      for (let row = 0; row < rows; row++) {
        const start = (row - row % BLOCK) * columns + row % BLOCK;
        for (let column = 0; column < columns; column++) blocked[start + column * BLOCK] = weights[at(row, column)];
      }
      const biases = new Float32Array(LANES * blocks * BLOCK);
      for (let place = 0; bias && place < LANES * rows; place++) biases[place] = bias[Math.floor(place / LANES)];
      linear.x = new Float32Array(buffer, x, LANES * columns);
      linear.y = new Float32Array(buffer, y, LANES * blocks * BLOCK);
      linear.multiply = () => {
        linear.y.set(biases);
        kernel(place, x, y, blocks, columns);
        return linear.y;
      };
    });
    return linear;
  }

  fill(withWebAssembly) {
    const pages = Math.ceil(this.size / 65536) || 1;
    const memory = withWebAssembly ? new WebAssembly.Memory({ initial: pages })
      : { buffer: new ArrayBuffer(65536 * pages) };
    const kernel = withWebAssembly ? productKernel(memory) : plainKernel(memory);
    for (const fill of this.fillers) fill(memory.buffer, kernel);
  }
}

function hasVectors() {
  try {
    return Boolean(productKernel(new WebAssembly.Memory({ initial: 1 })));
  } catch { // there is no WebAssembly, it has no vectors, or a policy forbids it
    return false;
  }
}

/* The networks */

const sigmoid = x => 1 / (1 + Math.exp(-x)), tanh = x => 2 / (1 + Math.exp(-2 * x)) - 1;

/** Of each cell the next state h, and the LSTM's c, from W x and R h; the gates are in ONNX's order. */
const CELLS = {
  rnn(wx, rh, h) {
    for (let i = 0; i < h.length; i++) h[i] = tanh(wx[i] + rh[i]);
  },
  gru(wx, rh, h, n = h.length) { // z, r, h; the reset comes after the product
    for (let i = 0; i < n; i++) {
      const z = sigmoid(wx[i] + rh[i]), r = sigmoid(wx[n + i] + rh[n + i]);
      h[i] = (1 - z) * tanh(wx[2 * n + i] + r * rh[2 * n + i]) + z * h[i];
    }
  },
  lstm(wx, rh, h, n = h.length, c = undefined) { // i, o, f, c
    for (let i = 0; i < n; i++) {
      const written = sigmoid(wx[i] + rh[i]) * tanh(wx[3 * n + i] + rh[3 * n + i]);
      c[i] = sigmoid(wx[2 * n + i] + rh[2 * n + i]) * c[i] + written;
      h[i] = sigmoid(wx[n + i] + rh[n + i]) * tanh(c[i]);
    }
  },
};

class Recurrent {
  constructor(spec, tensors, memory) {
    this.spec = spec;
    this.table = tensors.embedded_table.values;
    const directions = spec.bidirectional ? [0, 1] : [0];
    const part = (name, direction) => {
      const { shape: [, ...shape], values } = tensors[name], size = values.length / directions.length;
      return { shape, values: values.subarray(direction * size, (direction + 1) * size) };
    };
    const linear = (name, bias, transposed) => {
      const { values, shape } = tensors[name];
      return memory.linear(values, transposed ? [shape[1], shape[0]] : shape, tensors[bias]?.values, transposed);
    };
    this.layers = Array.from({ length: spec.num_layers }, (_, layer) => directions.map(direction => {
      const [W, R, B] = ["W", "R", "B"].map(name => part(`layer${layer}_${name}`, direction));
      return { input: memory.linear(W.values, W.shape, B.values.subarray(0, W.shape[0])),
        state: memory.linear(R.values, R.shape, B.values.subarray(W.shape[0])) };
    }));
    this.head = linear("head_W", "head_b");
    if (spec.surprisal_size) {
      this.guesses = directions.map(direction => linear(`direction${direction}_W`, `direction${direction}_b`, true));
      this.compare = linear("compare_W", "compare_b", true);
      this.evidence = linear("evidence_W", "", true);
    }
  }

  /** The logits, [class][lane], of at most LANES texts, by their ids. */
  logits(sequences) {
    const { hidden_size: hidden, embedding_size: width, surprisal_size: surprisal, pooling } = this.spec;
    const lengths = Array.from({ length: LANES }, (_, lane) => sequences[lane]?.length ?? 0);
    const embedded = Array.from({ length: Math.max(...lengths) }, (_, time) => {
      const vectors = new Float32Array(width * LANES);
      sequences.forEach((ids, lane) => {
        if (time >= ids.length) return;
        const start = ids[time] * width;
        for (let i = 0; i < width; i++) vectors[i * LANES + lane] = this.table[start + i];
      });
      return vectors;
    });
    let states = embedded;
    for (const layer of this.layers) states = this.read(layer, states, lengths);
    const directions = this.layers[0].length, pooled = this.head.x;
    sequences.forEach((ids, lane) => {
      for (let i = lane; i < pooled.length; i += LANES) {
        if (pooling === "last") {
          pooled[i] = states[i < hidden * LANES ? ids.length - 1 : 0][i];
          continue;
        }
        let value = states[0][i];
        for (let time = 1; time < ids.length; time++) {
          value = pooling === "max" ? Math.max(value, states[time][i]) : value + states[time][i];
        }
        pooled[i] = pooling === "max" ? value : value / ids.length;
      }
    });
    const logits = this.head.multiply().slice();
    if (!surprisal) return logits;
    const { x: strongest } = this.evidence, { x: features } = this.compare;
    strongest.fill(0);
    embedded.forEach((vectors, time) => {
      for (let direction = 0; direction < directions; direction++) {
        const seen = states[direction ? time + 1 : time - 1], guess = this.guesses[direction];
        const start = direction * hidden * LANES;
        seen ? guess.x.set(seen.subarray(start, start + hidden * LANES)) : guess.x.fill(0);
        const expected = guess.multiply();
        for (let i = 0; i < vectors.length; i++) features[direction * vectors.length + i] = vectors[i] * expected[i];
      }
      features.set(vectors, directions * vectors.length);
      const compared = this.compare.multiply();
      for (let i = 0; i < strongest.length; i++) {
        if (time < lengths[i % LANES]) strongest[i] = Math.max(strongest[i], compared[i]);
      }
    });
    this.evidence.multiply().forEach((value, i) => { logits[i] += value; });
    return logits;
  }

  /** One layer's states, 0 in padding; from right to left each text begins at its own end. */
  read(layer, inputs, lengths) {
    const width = this.spec.hidden_size * LANES;
    const states = inputs.map(() => new Float32Array(width * layer.length));
    layer.forEach(({ input, state }, direction) => {
      const memory = new Float32Array(width);
      state.x.fill(0);
      for (let step = 0; step < inputs.length; step++) {
        const places = lengths.map(length => step >= length ? -1 : direction ? length - 1 - step : step);
        places.forEach((place, lane) => { if (place >= 0) copyLane(inputs[place], input.x, lane); });
        CELLS[this.spec.cell](input.multiply(), state.multiply(), state.x, width, memory);
        places.forEach((place, lane) => { if (place >= 0) copyLane(state.x, states[place], lane, direction * width); });
      }
    });
    return states;
  }
}

function copyLane(source, target, lane, offset = 0) {
  for (let i = lane; i < source.length; i += LANES) target[offset + i] = source[i];
}

export class Classifier {
  constructor(student, tokenizer, tensors, withWebAssembly) {
    const { spec } = student, memory = new Memory();
    this.student = student;
    this.tokenizer = tokenizer;
    this.inPairs = student.in_pairs;
    this.labelNames = student.label_names;
    this.recurrent = student.kind === "rnn" ? new Recurrent(spec, tensors, memory) : null;
    if (spec.ngram_size) {
      this.table = tensors.ngram_vectors_table.values;
      this.wide = memory.linear(tensors.ngram_W.values, tensors.ngram_W.shape, tensors.ngram_b.values);
    }
    memory.fill(withWebAssembly);
  }

  /** Read the bytes of weights.safetensors, an ArrayBuffer or Uint8Array. */
  static load(content, withWebAssembly = hasVectors()) {
    const bytes = content instanceof Uint8Array ? content : new Uint8Array(content);
    const { tensors, metadata } = readSafetensors(bytes), { student, tokenizer } = JSON.parse(metadata.potstill);
    return new Classifier(student, tokenizer && new Tokenizer(tokenizer), tensors, withWebAssembly);
  }

  /**
   * Classify texts, or pairs [first, second] of texts; white space around them makes no difference. `label` is a name,
   * null where the model is not sure enough, or an array of names where a text may have several.
   */
  predict(texts) {
    const { max_length: longest, spec, temperature } = this.student;
    const items = texts.map((text, place) => {
      const item = this.inPairs ? text : [text];
      if (Array.isArray(item) && item.length === 1 + this.inPairs && item.every(part => typeof part === "string")) {
        return item.map(strip);
      }
      throw new TypeError(`text ${place}: expected ${this.inPairs ? "a pair of strings" : "a string"}`);
    });
    const encoded = items.map(item => this.recurrent ? this.tokenizer.encode(item, longest)
      : { ids: [], truncated: item.some(text => countCharacters(text) > CHARACTERS_A_TOKEN * longest) });
    for (const one of encoded) if (!one.ids.length) one.ids = [spec.pad_token_id]; // a text without a token
    // Texts of like length are computed together.
    const lengthOf = place => encoded[place].ids.length;
    const order = items.map((_, place) => place).sort((one, other) => lengthOf(one) - lengthOf(other));
    const answers = [];
    for (let start = 0; start < order.length; start += LANES) {
      const places = order.slice(start, start + LANES);
      const logits = this.logits(places.map(place => items[place]), places.map(place => encoded[place].ids));
      places.forEach((place, lane) => {
        const scores = this.labelNames.map((_, number) => logits[number * LANES + lane] / temperature);
        answers[place] = { ...this.decide(scores), truncated: encoded[place].truncated };
      });
    }
    return answers;
  }

  /** Name the class, or classes, of a text from its logits, divided by the temperature. */
  decide(scores) {
    const { threshold, min_confidence: least } = this.student, highest = Math.max(...scores);
    if (!Number.isFinite(highest)) throw new Error("expected finite logits: the weights are damaged");
    const several = Array.isArray(threshold), odds = scores.map(score => Math.exp(score - highest));
    const total = odds.reduce((sum, value) => sum + value, 0);
    const shares = several ? scores.map(sigmoid) : odds.map(value => value / total);
    const probabilities = new Map(this.labelNames.map((name, number) => [name, shares[number]]));
    if (several) {
      const has = shares.map((share, number) => share > threshold[number]);
      const probability = shares.reduce((product, share, number) => product * (has[number] ? share : 1 - share), 1);
      return { label: this.labelNames.filter((_, number) => has[number]), probability, probabilities };
    }
    const best = threshold === null ? scores.indexOf(highest) : Number(shares[1] > threshold);
    const label = shares[best] < (least ?? 0) ? null : this.labelNames[best];
    return { label, probability: shares[best], probabilities };
  }

  logits(items, sequences) {
    const logits = this.recurrent?.logits(sequences) ?? new Float32Array(LANES * this.labelNames.length);
    if (!this.wide) return logits;
    const { ngram_buckets: buckets, ngram_size: size } = this.student.spec, { x } = this.wide;
    x.fill(0);
    items.forEach((item, lane) => {
      const { rows, weights } = hashNgrams(item, buckets, this.student.max_length);
      rows.forEach((row, place) => {
        for (let i = 0; i < size; i++) x[i * LANES + lane] += weights[place] * this.table[row * size + i];
      });
    });
    const wide = this.wide.multiply();
    return logits.map((value, place) => value + wide[place]);
  }
}
