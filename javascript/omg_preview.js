// Find concepts: the first picture with who is where, on which clicks and a brush say what is whose place.
// What is done on it goes into the concept's own fields at once: they alone count.

const OMG_PAINT = "rgb(255, 60, 160)";
const OMG_UNDO = 10;
const OMG_DRAG = 0.02; // parts of the picture; less is a click
const omgUnchanged = () => ({__type__: "update"});

function omgImage(source) {
    return new Promise(function(resolve) {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = () => resolve(null);
        image.src = source;
    });
}

// Gradio 3 gives a picture as its text, Gradio 4 (Forge) as a file of the server's.
function omgSource(picture) {
    return (picture && picture.url) || picture || null;
}

// A picture as text in the form that Gradio takes.
async function omgFile(text) {
    const {version, root} = window.gradio_config;
    if (!text || version.startsWith("3.")) return text;
    const form = new FormData();
    form.append("files", await (await fetch(text)).blob(), "mask.png");
    const [path] = await (await fetch(`${root}/upload`, {method: "POST", body: form})).json();
    return {path, url: `${root}/file=${path}`, orig_name: "mask.png", meta: {_type: "gradio.FileData"}};
}

function omgFill(context, operation, colour) {
    context.save();
    context.globalCompositeOperation = operation;
    context.fillStyle = colour;
    context.fillRect(0, 0, context.canvas.width, context.canvas.height);
    context.restore();
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

function omgFar(first, second) {
    return Math.hypot(first[0] - second[0], first[1] - second[1]) > OMG_DRAG;
}

function omgBox(first, second) {
    return [0, 1].map((i) => Math.min(first[i], second[i])).concat([0, 1].map((i) => Math.max(first[i], second[i])));
}

// What one of the tabs shows.
class OmgPreview {
    constructor(tab) {
        Object.assign(this, {
            tab,
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
        });
    }

    get who() {
        return gradioApp().getElementById(this.tab == "txt2img" ? "omg_who" : `omg_${this.tab}_who`);
    }

    find() {
        this.asking = true;
        gradioApp().getElementById(`${this.tab}_generate`).click();
        // Gradio submits before the browser comes to this, or not at all while it is still generating
        setTimeout(() => {
            this.asking = false;
        });
    }

    // After every generation: the same pictures come again if it was no preview.
    async show(picture, overlay, tool, target, ...masks) {
        if (!picture || !overlay) return;
        [picture, overlay] = [picture, overlay].map(omgSource);
        const images = [await omgImage(picture), await omgImage(overlay)];
        if (!this.overlay || this.overlay.src != overlay) this.mark = this.corner = null;
        this.overlay = images[1];
        if (this.source != picture) {
            this.source = picture;
            this.picture = images[0];
            this.paint.width = images[0].naturalWidth;
            this.paint.height = images[0].naturalHeight;
            this.masks = {};
        }
        await this.chosen(tool, target, ...masks);
    }

    // The choices beside the picture, or a concept's mask, have changed.
    async chosen(tool, target, ...masks) {
        const other = this.target != target || this.tool != tool;
        Object.assign(this, {tool, target: Number(target)});
        if (other) this.mark = this.corner = null;
        const mask = omgSource(masks[this.target - 1]);
        if (other || this.masks[this.target] !== mask) await this.loadPaint(this.target, mask);
        this.draw();
    }

    // A mask that was uploaded, pasted or painted before is there to be corrected.
    async loadPaint(target, mask) {
        this.before = [];
        this.masks[target] = mask;
        const image = mask && await omgImage(mask);
        if (target != this.target) return;
        const {paint} = this;
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

    draw() {
        const canvas = this.who.querySelector("canvas");
        const {picture, overlay, paint, tool} = this;
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
        } else if (this.mark) {
            omgDrawMark(context, this.mark);
        }
        this.who.dataset.tool = tool;
    }

    press(event) {
        if (!this.picture || event.button > 0) return;
        event.preventDefault();
        event.currentTarget.setPointerCapture(event.pointerId);
        this.pressed = omgPlaceOf(event);
        if (this.tool != "mask") return;
        const {paint, before} = this;
        before.push(paint.getContext("2d").getImageData(0, 0, paint.width, paint.height));
        before.splice(0, before.length - OMG_UNDO);
        this.stroke(this.pressed, this.pressed);
    }

    move(event) {
        if (!this.pressed) return;
        const place = omgPlaceOf(event);
        if (this.tool == "mask") {
            this.stroke(this.pressed, place);
            this.pressed = place;
        } else if (this.tool == "box" && omgFar(this.pressed, place)) {
            this.mark = omgBox(this.pressed, place);
            this.draw();
        }
    }

    release(event) {
        const {pressed, tool, corner} = this;
        if (!pressed) return;
        const place = omgPlaceOf(event);
        this.pressed = null;
        if (tool == "mask") {
            this.pickMask();
        } else if (tool == "point") {
            this.pick("point", place);
        } else if (omgFar(pressed, place) || corner) {
            this.corner = null;
            this.pick("box", omgBox(corner && !omgFar(pressed, place) ? corner : pressed, place));
        } else {
            this.corner = place;
            this.pick("corner", place);
        }
    }

    stroke(from, to) {
        const {paint} = this;
        const context = paint.getContext("2d");
        const [size, erase] = ["range", "checkbox"].map((type) => this.who.querySelector(`input[type=${type}]`));
        context.save();
        context.globalCompositeOperation = erase.checked ? "destination-out" : "source-over";
        Object.assign(context, {lineCap: "round", lineJoin: "round", strokeStyle: OMG_PAINT,
            lineWidth: Number(size.value) / 100 * paint.width});
        context.beginPath();
        context.moveTo(from[0] * paint.width, from[1] * paint.height);
        context.lineTo(to[0] * paint.width, to[1] * paint.height);
        context.stroke();
        context.restore();
        this.draw();
    }

    undo() {
        const {paint, before} = this;
        if (!before.length) return;
        paint.getContext("2d").putImageData(before.pop(), 0, 0);
        this.draw();
        this.pickMask();
    }

    clear() {
        const {paint, before} = this;
        const context = paint.getContext("2d");
        before.push(context.getImageData(0, 0, paint.width, paint.height));
        context.clearRect(0, 0, paint.width, paint.height);
        this.draw();
        this.pickMask();
    }

    // White on black, or null where nothing is painted: the picture alone is never a mask.
    mask() {
        const {paint} = this;
        const painted = paint.getContext("2d").getImageData(0, 0, paint.width, paint.height).data;
        if (!painted.some((value, index) => index % 4 == 3 && value > 127)) return null;
        const copy = Object.assign(document.createElement("canvas"), {width: paint.width, height: paint.height});
        const context = copy.getContext("2d");
        context.drawImage(paint, 0, 0);
        omgFill(context, "source-in", "white");
        omgFill(context, "destination-over", "black");
        return copy.toDataURL("image/png");
    }

    pickMask() {
        const mask = this.mask();
        this.masks[this.target] = mask;
        this.pick("mask", mask);
    }

    pick(kind, value) {
        if (kind != "mask") this.mark = value;
        this.picked = {kind, value};
        this.draw();
        omgPart(this.tab, "pick").click();
    }

    // For the hidden button: new values of all concepts' "where", position and mask, and what to say. It is given what
    // stands in "where" now: a box is for the shape in it, if that is what the concept has.
    async picks(...choices) {
        const {target} = this;
        const {kind, value} = this.picked;
        const mask = kind == "mask" ? await omgFile(value) : null;
        if (mask) this.masks[target] = omgSource(mask); // so that it is not loaded as a new one
        const data = this.who.dataset;
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
            ...all(kind == "mask" ? mask : omgUnchanged()),
            `<p>${said}</p>`,
        ];
    }

    // "Painted mask" was chosen for a concept: the picture, if there is one, is there to be painted on.
    placeChosen(number, choice) {
        if (!this.picture || choice != this.who.dataset.mask) return [omgUnchanged(), omgUnchanged()];
        this.who.scrollIntoView({block: "nearest"});
        return ["mask", number];
    }

    // Once the page is there.
    watch() {
        const {who} = this;
        const canvas = who.querySelector("canvas");
        canvas.addEventListener("pointerdown", (event) => this.press(event));
        canvas.addEventListener("pointermove", (event) => this.move(event));
        canvas.addEventListener("pointerup", (event) => this.release(event));
        canvas.addEventListener("pointercancel", (event) => this.release(event));
        who.querySelector(".omg-undo").addEventListener("click", () => this.undo());
        who.querySelector(".omg-clear").addEventListener("click", () => this.clear());
    }

    // What the host gathers for a generation: a preview says so.
    submitted(args) {
        const {yes, no} = this.who.dataset;
        this.asked = this.asking;
        this.asking = false;
        return this.asked ? args.map((each) => each === no ? yes : each) : args;
    }
}

const omgPreviews = {txt2img: new OmgPreview("txt2img"), img2img: new OmgPreview("img2img")};

onUiLoaded(function() {
    const shown = Object.values(omgPreviews).filter((preview) => preview.who);
    if (!shown.length) return;
    shown.forEach((preview) => preview.watch());
    const hostSubmit = submit;
    submit = function() {
        return omgPreviews.txt2img.submitted(hostSubmit(...arguments));
    };
    const hostSubmitImg2img = submit_img2img;
    submit_img2img = function() {
        return omgPreviews.img2img.submitted(hostSubmitImg2img(...arguments));
    };
});
