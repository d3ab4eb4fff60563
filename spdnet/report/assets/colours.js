// Okabe and Ito's colours, told apart with any colour vision. What a colour means is also said by shape or line.

const PREDICTION_COLOUR = "#E69F00";
const REFERENCE_COLOUR = "#56B4E9";
const SALIENCY_RGB = [204, 121, 167];
const SERIES = [
  { colour: "#0072B2", dash: "" },
  { colour: "#D55E00", dash: "6 3" },
  { colour: "#009E73", dash: "2 3" },
  { colour: "#CC79A7", dash: "8 3 2 3" },
  { colour: "#56B4E9", dash: "4 4" },
  { colour: "#E69F00", dash: "1 3" },
];
const FAIR_DSC = 0.5;
const GOOD_DSC = 0.8;

function series(index) {
  return SERIES[index % SERIES.length];
}

// Name of the style's colour for a DSC.
function gradeOf(dsc) {
  if (dsc < FAIR_DSC) return "poor";
  return dsc < GOOD_DSC ? "fair" : "good";
}

function rgbOf(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}
