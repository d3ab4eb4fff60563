// The report's data: the overview is in the page; a case is in the page too, or in a script file beside it.

const overview = JSON.parse(byId("overview").textContent);
const casePromises = new Map();
const caseReceivers = new Map();
const MAX_CASES_IN_MEMORY = 4;

// Case files call this; a page opened from disk may load scripts, but not fetch files.
window.spdReceiveCase = function (index, payload) {
  const receive = caseReceivers.get(index);
  if (receive) receive(payload);
};

function loadCase(index) {
  if (!casePromises.has(index)) {
    casePromises.set(index, readCase(index).then(prepareCase));
    casePromises.get(index).catch(() => casePromises.delete(index));
    forgetOldCases(index);
  }
  return casePromises.get(index);
}

function forgetOldCases(current) {
  for (const index of casePromises.keys()) {
    if (casePromises.size <= MAX_CASES_IN_MEMORY) return;
    if (index !== current) casePromises.delete(index);
  }
}

async function readCase(index) {
  const element = byId(`case-${index}`);
  return element ? JSON.parse(element.textContent) : loadCaseFile(index);
}

function loadCaseFile(index) {
  const file = overview.case_files[index];
  return new Promise((resolve, reject) => {
    const script = make("script", { src: file.split("/").map(encodeURIComponent).join("/") });
    const done = () => {
      caseReceivers.delete(index);
      script.remove();
    };
    caseReceivers.set(index, (payload) => {
      done();
      resolve(payload);
    });
    script.onerror = () => {
      done();
      reject(new Error(`The file ${file} of this case cannot be read. Keep it beside the report.`));
    };
    document.head.append(script);
  });
}

function prepareCase(payload) {
  const size = { width: payload.columns, height: payload.rows };
  payload.image = new PlaneReader(payload.grey.mime, payload.grey.planes, size);
  payload.referenceMap = payload.reference && new PlaneReader("image/png", payload.reference, size);
  for (const prediction of payload.predictions) {
    prediction.map = new PlaneReader("image/png", prediction.labels, size);
    prediction.saliencyMaps =
      prediction.saliency && prediction.saliency.map((planes) => new PlaneReader("image/png", planes, size));
    prediction.points = prediction.points.map(namedPoint);
  }
  return payload;
}
