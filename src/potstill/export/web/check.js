/** Compare the answers of this directory's module with those that Python gave at export: node check.js */

import { readFileSync } from "node:fs";
import { Classifier } from "./potstill.js";

const MOST = 1e-4; // largest difference of a probability that passes
const TIE = 1e-5; // two classes whose probabilities differ by less are equally likely: either is right
const read = name => readFileSync(new URL(name, import.meta.url));

const { texts, labels, probabilities } = JSON.parse(read("check.json"));
const answers = Classifier.load(read("weights.safetensors")).predict(texts);
let others = 0, largest = 0;
answers.forEach((answer, place) => {
  const isTie = Math.abs(answer.probabilities.get(answer.label) - answer.probabilities.get(labels[place])) < TIE;
  others += JSON.stringify(answer.label) !== JSON.stringify(labels[place]) && !isTie;
  [...answer.probabilities.values()].forEach((share, number) => {
    const difference = Math.abs(share - probabilities[place][number]);
    if (!(difference <= largest)) largest = difference; // also where it is NaN
  });
});
const passes = !others && largest <= MOST;
console.log(`${passes ? "passed" : "FAILED"}: ${texts.length} texts, ${others} with other labels than Python's, `
  + `probabilities within ${largest.toExponential(1)}`);
process.exitCode = passes ? 0 : 1;
