// A mask as it is painted: a canvas that has the concept's colour where the mask is.

(function() {
    const UNDO = 10;

    function fill(context, operation, colour) {
        context.save();
        context.globalCompositeOperation = operation;
        context.fillStyle = colour;
        context.fillRect(0, 0, context.canvas.width, context.canvas.height);
        context.restore();
    }

    class Paint {
        constructor() {
            this.canvas = document.createElement("canvas");
            this.context = this.canvas.getContext("2d", {willReadFrequently: true});
            this.before = []; // the pixels before each of the last strokes
        }

        // Of another picture: nothing is painted.
        resize(width, height) {
            Object.assign(this.canvas, {width, height});
        }

        get pixels() {
            return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
        }

        // What comes next can be undone.
        keep() {
            this.before.push(this.pixels);
            this.before.splice(0, this.before.length - UNDO);
        }

        forget() {
            this.before = [];
        }

        // Whether there was anything to undo.
        undo() {
            const pixels = this.before.pop();
            if (pixels) this.context.putImageData(pixels, 0, 0);
            return Boolean(pixels);
        }

        clear() {
            this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
        }

        // A picture of a mask, or null for none, as requests read it: painted in any colour, or black on nothing.
        load(image, colour) {
            this.clear();
            const {context} = this;
            const {width, height} = this.canvas;
            if (!image || !width) return;
            context.drawImage(image, 0, 0, width, height);
            const pixels = this.pixels;
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
            fill(context, "source-in", colour);
        }

        // A line in parts of the picture, as thick as a part of its width; without a colour it takes away.
        stroke(from, to, thick, colour) {
            const {context} = this;
            const {width, height} = this.canvas;
            context.save();
            context.globalCompositeOperation = colour ? "source-over" : "destination-out";
            Object.assign(context, {lineCap: "round", lineJoin: "round", strokeStyle: colour ?? "black",
                lineWidth: thick * width});
            context.beginPath();
            context.moveTo(from[0] * width, from[1] * height);
            context.lineTo(to[0] * width, to[1] * height);
            context.stroke();
            context.restore();
        }

        // White on black, or null where nothing is painted: the picture alone is never a mask.
        mask() {
            const {data} = this.pixels;
            if (!data.some((value, index) => index % 4 == 3 && value > 127)) return null;
            const {width, height} = this.canvas;
            const copy = Object.assign(document.createElement("canvas"), {width, height});
            const context = copy.getContext("2d");
            context.drawImage(this.canvas, 0, 0);
            fill(context, "source-in", "white");
            fill(context, "destination-over", "black");
            return copy.toDataURL("image/png");
        }
    }

    onUiLoaded(function() {
        for (const accordion of gradioApp().querySelectorAll("[id^='script_'][id$='omg_enabled']")) {
            accordion.omgPaint ??= new Paint();
        }
    });
})();
