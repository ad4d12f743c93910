// Find concepts: the first picture with who is where, on which clicks and a brush say what is whose place.
// What is done on it goes into the concept's own fields at once: they alone count.

const omgPreview = {
    asking: false, // from the button until what it submits
    asked: false, // whether what was submitted last is a preview
    tool: "point",
    target: 1,
    picture: null, // images
    overlay: null,
    source: null, // the text of the picture that is shown
    paint: document.createElement("canvas"), // the mask of the target: its colour where it is painted
    before: [], // the paint before each of the last strokes
    masks: {}, // the mask of each concept as the page knows it
    corner: null,
    pressed: null,
    mark: null, // what was clicked last: two or four fractions
    picked: null, // what goes into the fields next
};
const OMG_PAINT = "rgb(255, 60, 160)";
const OMG_UNDO = 10;
const OMG_DRAG = 0.02; // parts of the picture; less is a click
const omgUnchanged = () => ({__type__: "update"});

function omgWho() {
    return gradioApp().getElementById("omg_who");
}

function omgFindConcepts() {
    omgPreview.asking = true;
    gradioApp().getElementById("txt2img_generate").click();
    // Gradio submits before the browser comes to this, or not at all while it is still generating
    setTimeout(() => {
        omgPreview.asking = false;
    });
}

function omgImage(source) {
    return new Promise(function(resolve) {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = () => resolve(null);
        image.src = source;
    });
}

// After every generation: the same pictures come again if it was no preview.
async function omgShow(picture, overlay, tool, target, ...masks) {
    if (!picture || !overlay) return;
    const images = [await omgImage(picture), await omgImage(overlay)];
    if (!omgPreview.overlay || omgPreview.overlay.src != overlay) omgPreview.mark = omgPreview.corner = null;
    omgPreview.overlay = images[1];
    if (omgPreview.source != picture) {
        omgPreview.source = picture;
        omgPreview.picture = images[0];
        omgPreview.paint.width = images[0].naturalWidth;
        omgPreview.paint.height = images[0].naturalHeight;
        omgPreview.masks = {};
    }
    await omgTool(tool, target, ...masks);
}

// The choices beside the picture, or a concept's mask, have changed.
async function omgTool(tool, target, ...masks) {
    const other = omgPreview.target != target || omgPreview.tool != tool;
    Object.assign(omgPreview, {tool, target: Number(target)});
    if (other) omgPreview.mark = omgPreview.corner = null;
    const mask = masks[omgPreview.target - 1] || null;
    if (other || omgPreview.masks[omgPreview.target] !== mask) await omgLoadPaint(omgPreview.target, mask);
    omgDraw();
}

// A mask that was uploaded, pasted or painted before is there to be corrected.
async function omgLoadPaint(target, mask) {
    omgPreview.before = [];
    omgPreview.masks[target] = mask;
    const image = mask && await omgImage(mask);
    if (target != omgPreview.target) return;
    const {paint} = omgPreview;
    const context = paint.getContext("2d", {willReadFrequently: true});
    context.clearRect(0, 0, paint.width, paint.height);
    if (!image || !paint.width) return;
    context.drawImage(image, 0, 0, paint.width, paint.height);
    const pixels = context.getImageData(0, 0, paint.width, paint.height);
    const {data} = pixels;
    let brightest = 0;
    for (let i = 0; i < data.length; i += 4) {
        data[i] = Math.max(data[i], data[i + 1], data[i + 2]) * data[i + 3] / 255;
        brightest = Math.max(brightest, data[i]);
    }
    for (let i = 0; i < data.length; i += 4) {
        if (brightest > 0) data[i + 3] = data[i]; // all black is read by its opacity
    }
    context.putImageData(pixels, 0, 0);
    omgFill(context, "source-in", OMG_PAINT);
}

function omgFill(context, operation, colour) {
    context.save();
    context.globalCompositeOperation = operation;
    context.fillStyle = colour;
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
    context.restore();
}

function omgDraw() {
    const canvas = omgWho().querySelector("canvas");
    const {picture, overlay, paint, tool} = omgPreview;
    if (!picture) return;
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    if (canvas.width != width || canvas.height != height) Object.assign(canvas, {width, height});
    const shown = Math.min(Math.max(width, 384), 0.7 * window.innerHeight * width / height);
    canvas.style.width = `min(100%, ${Math.round(shown)}px)`;
    const context = canvas.getContext("2d");
    context.drawImage(tool == "mask" ? picture : overlay, 0, 0, width, height);
    if (tool == "mask") {
        context.globalAlpha = 0.6;
        context.drawImage(paint, 0, 0);
        context.globalAlpha = 1;
    } else if (omgPreview.mark) {
        omgDrawMark(context, omgPreview.mark);
    }
    omgWho().dataset.tool = tool;
}

// A cross or a box, white within black: seen on any picture.
function omgDrawMark(context, mark) {
    const {width, height} = context.canvas;
    const [x, y, right, bottom] = mark.map((part, index) => part * (index % 2 ? height : width));
    const arm = Math.max(4, width / 40);
    context.beginPath();
    if (mark.length == 4) {
        context.rect(x, y, right - x, bottom - y);
    } else {
        context.moveTo(x - arm, y);
        context.lineTo(x + arm, y);
        context.moveTo(x, y - arm);
        context.lineTo(x, y + arm);
    }
    for (const [colour, line] of [["black", arm / 2], ["white", arm / 4]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.stroke();
    }
}

// Parts of the picture's width and height.
function omgPlaceOf(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const part = (value) => Math.min(1, Math.max(0, value));
    return [part((event.clientX - box.left) / box.width), part((event.clientY - box.top) / box.height)];
}

function omgPressed(event) {
    if (!omgPreview.picture || event.button > 0) return;
    event.preventDefault();
    event.currentTarget.setPointerCapture(event.pointerId);
    omgPreview.pressed = omgPlaceOf(event);
    if (omgPreview.tool != "mask") return;
    const {paint, before} = omgPreview;
    before.push(paint.getContext("2d").getImageData(0, 0, paint.width, paint.height));
    before.splice(0, before.length - OMG_UNDO);
    omgStroke(omgPreview.pressed, omgPreview.pressed);
}

function omgMoved(event) {
    if (!omgPreview.pressed) return;
    const place = omgPlaceOf(event);
    if (omgPreview.tool == "mask") {
        omgStroke(omgPreview.pressed, place);
        omgPreview.pressed = place;
    } else if (omgPreview.tool == "box" && omgFar(omgPreview.pressed, place)) {
        omgPreview.mark = omgBox(omgPreview.pressed, place);
        omgDraw();
    }
}

function omgReleased(event) {
    const {pressed, tool, corner} = omgPreview;
    if (!pressed) return;
    const place = omgPlaceOf(event);
    omgPreview.pressed = null;
    if (tool == "mask") {
        omgPickMask();
    } else if (tool == "point") {
        omgPick("point", place);
    } else if (omgFar(pressed, place) || corner) {
        omgPreview.corner = null;
        omgPick("box", omgBox(corner && !omgFar(pressed, place) ? corner : pressed, place));
    } else {
        omgPreview.corner = place;
        omgPick("corner", place);
    }
}

function omgFar(first, second) {
    return Math.hypot(first[0] - second[0], first[1] - second[1]) > OMG_DRAG;
}

function omgBox(first, second) {
    return [0, 1].map((i) => Math.min(first[i], second[i])).concat([0, 1].map((i) => Math.max(first[i], second[i])));
}

function omgStroke(from, to) {
    const {paint} = omgPreview;
    const context = paint.getContext("2d");
    const [size, erase] = ["range", "checkbox"].map((type) => omgWho().querySelector(`input[type=${type}]`));
    context.save();
    context.globalCompositeOperation = erase.checked ? "destination-out" : "source-over";
    Object.assign(context, {lineCap: "round", lineJoin: "round", strokeStyle: OMG_PAINT,
        lineWidth: Number(size.value) / 100 * paint.width});
    context.beginPath();
    context.moveTo(from[0] * paint.width, from[1] * paint.height);
    context.lineTo(to[0] * paint.width, to[1] * paint.height);
    context.stroke();
    context.restore();
    omgDraw();
}

function omgUndo() {
    const {paint, before} = omgPreview;
    if (!before.length) return;
    paint.getContext("2d").putImageData(before.pop(), 0, 0);
    omgDraw();
    omgPickMask();
}

function omgClear() {
    const {paint, before} = omgPreview;
    const context = paint.getContext("2d");
    before.push(context.getImageData(0, 0, paint.width, paint.height));
    context.clearRect(0, 0, paint.width, paint.height);
    omgDraw();
    omgPickMask();
}

// White on black, or null where nothing is painted: the picture alone is never a mask.
function omgMask() {
    const {paint} = omgPreview;
    const painted = paint.getContext("2d").getImageData(0, 0, paint.width, paint.height).data;
    if (!painted.some((value, index) => index % 4 == 3 && value > 127)) return null;
    const copy = Object.assign(document.createElement("canvas"), {width: paint.width, height: paint.height});
    const context = copy.getContext("2d");
    context.drawImage(paint, 0, 0);
    omgFill(context, "source-in", "white");
    omgFill(context, "destination-over", "black");
    return copy.toDataURL("image/png");
}

function omgPickMask() {
    const mask = omgMask();
    omgPreview.masks[omgPreview.target] = mask; // so that it is not loaded as a new one
    omgPick("mask", mask);
}

function omgPick(kind, value) {
    if (kind != "mask") omgPreview.mark = value;
    omgPreview.picked = {kind, value};
    omgDraw();
    gradioApp().getElementById("script_omg_pick").click();
}

// For the hidden button: new values of all concepts' "where", position and mask, and what to say. It is given what stands
// in "where" now: a box is for the shape in it, if that is what the concept has.
function omgPicked(...choices) {
    const {target} = omgPreview;
    const {kind, value} = omgPreview.picked;
    const data = omgWho().dataset;
    const outlines = kind == "box" && choices[target - 1] == data.outline;
    const numbers = kind == "mask" ? "" : value.map((part) => part.toFixed(3)).join(", ");
    const flat = kind == "box" && (numbers.split(", ")[0] == numbers.split(", ")[2]
        || numbers.split(", ")[1] == numbers.split(", ")[3]);
    const said = {
        point: `Concept ${target} is the thing at ${numbers}.`,
        corner: `One corner of concept ${target}'s box is at ${numbers}. Now click the opposite one.`,
        box: flat ? "These two corners make no box. Click two others."
            : `Concept ${target} has the ${outlines ? "shape inside the box" : "box"} ${numbers}.`,
        mask: value ? `Concept ${target} has the mask that you painted.`
            : `Concept ${target} has no mask: nothing is painted.`,
    }[kind];
    const sets = kind != "corner" && !flat;
    const all = (chosen) => Array.from({length: Number(data.concepts)},
        (_, index) => sets && index == target - 1 ? chosen : omgUnchanged());
    return [
        ...all(outlines ? data.outline : data[kind]),
        ...all(kind == "mask" ? omgUnchanged() : numbers),
        ...all(kind == "mask" ? value : omgUnchanged()),
        `<p>${said}</p>`,
    ];
}

// "Painted mask" was chosen for a concept: the picture, if there is one, is there to be painted on.
function omgPlaceChosen(number, choice) {
    if (!omgPreview.picture || choice != omgWho().dataset.mask) return [omgUnchanged(), omgUnchanged()];
    omgWho().scrollIntoView({block: "nearest"});
    return ["mask", number];
}

onUiLoaded(function() {
    const who = omgWho();
    if (!who) return;
    const hostSubmit = submit;
    submit = function() {
        const args = hostSubmit(...arguments);
        const {yes, no} = who.dataset;
        omgPreview.asked = omgPreview.asking;
        omgPreview.asking = false;
        return omgPreview.asked ? args.map((each) => each === no ? yes : each) : args;
    };
    const canvas = who.querySelector("canvas");
    canvas.addEventListener("pointerdown", omgPressed);
    canvas.addEventListener("pointermove", omgMoved);
    canvas.addEventListener("pointerup", omgReleased);
    canvas.addEventListener("pointercancel", omgReleased);
    who.querySelector(".omg-undo").addEventListener("click", omgUndo);
    who.querySelector(".omg-clear").addEventListener("click", omgClear);
});
