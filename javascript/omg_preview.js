// Find concepts: the first picture with who is where, on which clicks and a brush say what is whose place.
// What is done on it goes into the concept's own fields at once: they alone count.

(function() {
    const DRAG = 0.02; // parts of the picture; less is a click
    const STEP = 0.05; // of the picture, for each press of an arrow key; fine with Ctrl
    const FINE = 0.01;
    const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const unchanged = () => ({__type__: "update"});

    // What is said, in the user's language if the host's localization has it, with what stands for {names}.
    function say(template, slots = {}) {
        const words = getTranslation(template) ?? template;
        return `<p>${words.replace(/{(\w+)}/g, (_, name) => slots[name])}</p>`;
    }

    function loadImage(source) {
        return new Promise(function(resolve) {
            const image = new Image();
            image.onload = () => resolve(image);
            image.onerror = () => resolve(null);
            image.src = source;
        });
    }

    // Gradio 3 gives a picture as its text, Gradio 4 (Forge) as a file of the server's.
    function sourceOf(picture) {
        return (picture && picture.url) || picture || null;
    }

    // A picture as text in the form that Gradio takes.
    async function fileOf(text) {
        const {version, root} = window.gradio_config;
        if (!text || version.startsWith("3.")) return text;
        const form = new FormData();
        form.append("files", await (await fetch(text)).blob(), "mask.png");
        const [path] = await (await fetch(`${root}/upload`, {method: "POST", body: form})).json();
        return {path, url: `${root}/file=${path}`, orig_name: "mask.png", meta: {_type: "gradio.FileData"}};
    }

    // A cross or a box, white within black: seen on any picture.
    function drawMark(context, mark) {
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
    function placeOf(event) {
        const box = event.currentTarget.getBoundingClientRect();
        const part = (value) => Math.min(1, Math.max(0, value));
        return [part((event.clientX - box.left) / box.width), part((event.clientY - box.top) / box.height)];
    }

    function areFar(first, second) {
        return Math.hypot(first[0] - second[0], first[1] - second[1]) > DRAG;
    }

    function boxOf(first, second) {
        return [Math.min, Math.max].flatMap((edge) => [0, 1].map((i) => edge(first[i], second[i])));
    }

    // What one of the tabs shows.
    class Preview {
        constructor(accordion) {
            Object.assign(this, {
                accordion,
                tab: accordion.id.includes("img2img") ? "img2img" : "txt2img",
                who: accordion.querySelector(".omg-who"),
                finding: false, // while the button presses Generate
                asking: false, // from then until what that submits
                asked: false, // whether what was submitted last is a preview
                tool: "point",
                target: 1,
                picture: null, // images
                overlay: null,
                source: null, // the text of the picture that is shown
                masks: {}, // the mask of each concept as the page knows it
                corner: null,
                pressed: null,
                cursor: null, // where the keyboard is
                mark: null, // what was clicked last: two or four fractions
                picked: null, // what goes into the fields next
            });
            this.watch();
        }

        // The mask of the target.
        get paint() {
            return this.accordion.omgPaint;
        }

        get colour() {
            const group = this.accordion.querySelectorAll(".omg-concept")[this.target - 1];
            return getComputedStyle(group).getPropertyValue("--omg-colour").trim();
        }

        get generate() {
            return gradioApp().getElementById(`${this.tab}_generate`);
        }

        // Nothing while the host draws: Gradio does not submit it, but Gradio 4 gathers it.
        find() {
            if (gradioApp().getElementById(`${this.tab}_skip`).style.display == "block") return;
            this.finding = true;
            this.generate.click();
            this.finding = false;
        }

        // After every generation: the same pictures come again if it was no preview.
        async show(picture, overlay, tool, target, ...masks) {
            if (!picture || !overlay) return;
            [picture, overlay] = [picture, overlay].map(sourceOf);
            const images = [await loadImage(picture), await loadImage(overlay)];
            if (!this.overlay || this.overlay.src != overlay) this.mark = this.corner = null;
            this.overlay = images[1];
            if (this.source != picture) {
                this.source = picture;
                this.picture = images[0];
                this.paint.resize(images[0].naturalWidth, images[0].naturalHeight);
                this.masks = {};
            }
            await this.chosen(tool, target, ...masks);
        }

        // The choices beside the picture, or a concept's mask, have changed.
        async chosen(tool, target, ...masks) {
            const other = this.target != target || this.tool != tool;
            Object.assign(this, {tool, target: Number(target)});
            if (other) this.mark = this.corner = null;
            const mask = sourceOf(masks[this.target - 1]);
            if (other || this.masks[this.target] !== mask) await this.loadPaint(this.target, mask);
            this.draw();
        }

        // A mask that was uploaded, pasted or painted before is there to be corrected.
        async loadPaint(target, mask) {
            this.paint.forget();
            this.masks[target] = mask;
            const image = mask && await loadImage(mask);
            if (target == this.target) this.paint.load(image, this.colour);
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
                context.drawImage(paint.canvas, 0, 0);
                context.globalAlpha = 1;
            } else if (this.mark) {
                drawMark(context, this.mark);
            }
            if (this.cursor) drawMark(context, this.cursor);
            this.who.dataset.tool = tool;
        }

        press(event) {
            if (!this.picture || event.button > 0) return;
            event.preventDefault();
            event.currentTarget.focus({preventScroll: true});
            event.currentTarget.setPointerCapture(event.pointerId);
            this.cursor = null;
            this.pressAt(placeOf(event));
        }

        pressAt(place) {
            this.pressed = place;
            if (this.tool != "mask") return;
            this.paint.keep();
            this.stroke(place, place);
        }

        move(event) {
            if (this.pressed) this.moveTo(placeOf(event));
        }

        moveTo(place) {
            if (this.tool == "mask") {
                this.stroke(this.pressed, place);
                this.pressed = place;
            } else if (this.tool == "box" && areFar(this.pressed, place)) {
                this.mark = boxOf(this.pressed, place);
                this.draw();
            }
        }

        release(event) {
            if (this.pressed) this.releaseAt(placeOf(event));
        }

        releaseAt(place) {
            const {pressed, tool, corner} = this;
            this.pressed = null;
            if (tool == "mask") {
                this.pickMask();
            } else if (tool == "point") {
                this.pick("point", place);
            } else if (areFar(pressed, place) || corner) {
                this.corner = null;
                this.pick("box", boxOf(corner && !areFar(pressed, place) ? corner : pressed, place));
            } else {
                this.corner = place;
                this.pick("corner", place);
            }
        }

        // Arrows move a cross, Enter does there what a click does, and Shift with an arrow paints on the way.
        key(event) {
            if (!this.picture || event.altKey || event.metaKey) return;
            const arrow = ARROWS[event.key];
            const clicks = event.key == "Enter" || event.key == " ";
            if (!arrow && !clicks) {
                if (event.key == "Escape") this.leave();
                return;
            }
            event.preventDefault();
            event.stopPropagation(); // the host's own keys
            const from = this.cursor ?? [0.5, 0.5];
            if (clicks) {
                this.cursor = from;
                this.pressAt(from);
                this.releaseAt(from);
                return;
            }
            const step = event.ctrlKey ? FINE : STEP;
            this.cursor = this.cursor ? from.map((part, i) => Math.min(1, Math.max(0, part + step * arrow[i]))) : from;
            if (this.tool == "mask" && event.shiftKey) {
                this.pressAt(from);
                this.moveTo(this.cursor);
                this.releaseAt(this.cursor);
            } else {
                this.draw();
            }
        }

        leave() {
            this.cursor = null;
            this.draw();
        }

        stroke(from, to) {
            const [size, erase] = ["range", "checkbox"].map((type) => this.who.querySelector(`input[type=${type}]`));
            this.paint.stroke(from, to, Number(size.value) / 100, erase.checked ? null : this.colour);
            this.draw();
        }

        undo() {
            if (!this.paint.undo()) return;
            this.draw();
            this.pickMask();
        }

        clear() {
            this.paint.keep();
            this.paint.clear();
            this.draw();
            this.pickMask();
        }

        pickMask() {
            const mask = this.paint.mask();
            this.masks[this.target] = mask;
            this.pick("mask", mask);
        }

        pick(kind, value) {
            if (kind != "mask") this.mark = value;
            this.picked = {kind, value};
            this.draw();
            gradioApp().getElementById(this.accordion.id.replace(/enabled$/, "pick")).click();
        }

        // For the hidden button: new values of all concepts' "where", position and mask, and what to say. It gets what
        // stands in "where" now: a box is for the shape in it, if that is what the concept has.
        async picks(...choices) {
            const {target} = this;
            const {kind, value} = this.picked;
            const mask = kind == "mask" ? await fileOf(value) : null;
            if (mask) this.masks[target] = sourceOf(mask); // so that it is not loaded as a new one
            const data = this.who.dataset;
            const outlines = kind == "box" && choices[target - 1] == data.outline;
            const numbers = kind == "mask" ? "" : value.map((part) => part.toFixed(3)).join(", ");
            const flat = kind == "box" && (numbers.split(", ")[0] == numbers.split(", ")[2]
                || numbers.split(", ")[1] == numbers.split(", ")[3]);
            const said = {
                point: "Concept {n} is the thing at {place}.",
                corner: "One corner of concept {n}'s box is at {place}. Now click the opposite one.",
                box: flat ? "These two corners make no box. Click two others."
                    : outlines ? "Concept {n} has the shape inside the box {place}."
                        : "Concept {n} has the box {place}.",
                mask: value ? "Concept {n} has the mask that you painted."
                    : "Concept {n} has no mask: nothing is painted.",
            }[kind];
            const sets = kind != "corner" && !flat;
            const all = (chosen) => Array.from({length: Number(data.concepts)},
                (_, index) => sets && index == target - 1 ? chosen : unchanged());
            return [
                ...all(outlines ? data.outline : data[kind]),
                ...all(kind == "mask" ? unchanged() : numbers),
                ...all(kind == "mask" ? mask : unchanged()),
                say(said, {n: target, place: numbers}),
            ];
        }

        // "Painted mask" was chosen for a concept: the picture, if there is one, is there to be painted on.
        placeChosen(number, choice) {
            if (!this.picture || choice != this.who.dataset.mask) return [unchanged(), unchanged()];
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
            canvas.addEventListener("keydown", (event) => this.key(event));
            canvas.addEventListener("blur", () => this.cursor && this.leave());
            // Gradio 4 submits some frames later; if it never does, the next click is not taken for this one
            this.generate.addEventListener("click", () => this.asking = this.finding, {capture: true});
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

    onUiLoaded(function() {
        const made = {};
        for (const accordion of gradioApp().querySelectorAll("[id^='script_'][id$='omg_enabled']")) {
            if (accordion.omgPreview) continue;
            accordion.omgPreview = new Preview(accordion);
            made[accordion.omgPreview.tab] = accordion.omgPreview;
        }
        if (made.txt2img) {
            const hostSubmit = submit;
            submit = (...args) => made.txt2img.submitted(hostSubmit(...args));
        }
        if (made.img2img) {
            const hostSubmit = submit_img2img;
            submit_img2img = (...args) => made.img2img.submitted(hostSubmit(...args));
        }
    });
})();
