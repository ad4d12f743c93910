// The list of concepts: add, remove, move and copy; words of the main prompt as phrases; tokens in a prompt, counted.
// Which groups of fields there are is settled when the page is made, so what moves is their values.

(function() {
    const TYPING = 800; // milliseconds without a key, as the host waits to count tokens

    class Concepts {
        constructor(accordion) {
            this.accordion = accordion;
            this.prefix = accordion.id.replace(/enabled$/, "");
            this.tab = accordion.id.includes("img2img") ? "img2img" : "txt2img";
            this.asked = null; // what the hidden button is to do
            this.counted = {}; // the prompts whose tokens were counted, by id
            const list = accordion.querySelector(".omg-list");
            this.fresh = JSON.parse(list.dataset.fresh); // what a new concept has
            this.removed = []; // values of concepts, the last one last
            accordion.addEventListener("click", (event) => this.clicked(event.target));
            this.translate();
            this.countTokens();
            this.propose();
        }

        // The host translates texts, and what stands in a component's own title; not those within.
        translate() {
            for (const each of this.accordion.querySelectorAll(".omg-tools [title]")) {
                each.title = getTranslation(each.title) ?? each.title;
            }
        }

        part(name) {
            return gradioApp().getElementById(this.prefix + name);
        }

        press(name) {
            this.part(name).click();
        }

        clicked(target) {
            const button = target.closest("[data-omg]");
            if (!button) return;
            if (button.dataset.omg == "phrase") {
                this.takePhrase(button);
            } else {
                this.asked = {action: button.dataset.omg, index: Number(button.dataset.concept) - 1};
                this.press("rearrange");
            }
        }

        // For the hidden button: the number of concepts and all their values, concept by concept, as they are to be.
        // (Gradio appends what stands in the outputs.)
        rearranged(count, ...values) {
            const size = this.fresh.length;
            const groups = this.accordion.querySelectorAll(".omg-concept").length;
            const concepts = Array.from({length: groups}, (_, index) => values.slice(index * size, (index + 1) * size));
            const {action, index} = this.asked;
            const room = count < groups;
            let focus = index;
            if (action == "add" && room) {
                concepts[count] = [...this.fresh];
                focus = count++;
            } else if (action == "copy" && room) {
                concepts.splice(index + 1, 0, [...concepts[index]]);
                concepts.pop();
                count++;
                focus = index + 1;
            } else if (action == "undo" && room) {
                // in the place of the only one, if that was emptied
                if (count > 1 || JSON.stringify(concepts[0]) != JSON.stringify(this.fresh)) count++;
                focus = count - 1;
                concepts[focus] = this.removed.pop();
            } else if (action == "remove") {
                this.removed.push(...concepts.splice(index, 1));
                concepts.push([...this.fresh]);
                count = Math.max(1, count - 1);
                focus = Math.min(index, count - 1);
            } else if (action == "up" || action == "down") {
                focus = Math.min(count - 1, Math.max(0, index + (action == "up" ? -1 : 1)));
                [concepts[index], concepts[focus]] = [concepts[focus], concepts[index]];
            }
            this.accordion.querySelector("[data-omg=undo]").hidden = !this.removed.length;
            this.focus(action, focus);
            return [count, ...concepts.flat()];
        }

        // After a change of their number: which groups are shown, and can be chosen on the picture. (Answers of the
        // server to several changes may come in any order.)
        shown(count, target) {
            const groups = this.accordion.querySelectorAll(".omg-concept").length;
            this.accordion.querySelector(".omg-list").classList.toggle("omg-full", count >= groups);
            const update = (values) => ({__type__: "update", ...values});
            const choices = Array.from({length: count}, (_, index) => [`Concept ${index + 1}`, index + 1]);
            return [...Array.from({length: groups}, (_, index) => update({visible: index < count})),
                update({choices, value: target <= count ? target : 1})];
        }

        // The keyboard stays with the concept: on the button that moved it, or in what is to be filled in next. Its
        // group may be shown only when the server has answered.
        focus(action, index, tries = 30) {
            const isNew = !["up", "down", "remove"].includes(action);
            const wanted = this.part(`concept${index + 1}`).querySelector(
                isNew ? "[id$='_phrase'] :is(input, textarea)" : `[data-omg="${action}"]`);
            if (wanted.offsetParent) {
                wanted.focus();
            } else if (tries) {
                setTimeout(() => this.focus(action, index, tries - 1), 100);
            }
        }

        takePhrase(button) {
            const group = button.closest(".omg-concept");
            const field = group.querySelector("[id$='_phrase'] :is(input, textarea)");
            field.value = button.dataset.phrase;
            updateInput(field);
            field.focus();
            this.proposeAnew();
        }

        // As the host does for its own prompts.
        countTokens() {
            for (const counter of this.accordion.querySelectorAll(".omg-tokens.block")) {
                setupTokenCounting(counter.id.replace(/_tokens$/, ""), counter.id, `${counter.id}_count`);
            }
        }

        showCounts() {
            for (const counter of this.accordion.querySelectorAll(".omg-tokens.block")) {
                toggleTokenCountingVisibility(null, counter.id);
            }
        }

        // What is typed is seen by its events; what was pasted, loaded or moved comes without any.
        lookAround() {
            if (!this.accordion.querySelector(".omg-list").offsetParent) return; // it is closed
            const typed = document.activeElement;
            for (const counter of this.accordion.querySelectorAll(".omg-tokens.block")) {
                const id = counter.id.replace(/_tokens$/, "");
                const field = this.accordion.querySelector(`#${id} textarea`);
                if (field == typed || (this.counted[id] ?? "") == field.value) continue;
                this.counted[id] = field.value;
                recalculatePromptTokens(id);
            }
            if (!this.sources.includes(typed)) this.proposeAnew();
        }

        // The phrases that are left to be taken, if what they come from has changed. (Gradio drops what is asked while
        // it waits for an answer.)
        proposeAnew() {
            const now = this.sources.map((field) => field.value).join("\n");
            if (now == this.proposedFor || this.isProposing) return;
            this.proposedFor = now;
            this.isProposing = true;
            this.press("propose");
        }

        proposed() {
            this.isProposing = false;
            this.proposeAnew();
        }

        propose() {
            this.sources = [gradioApp().querySelector(`#${this.tab}_prompt textarea`),
                ...this.accordion.querySelectorAll("[id$='_phrase'] :is(input, textarea)")];
            this.proposedFor = "";
            this.isProposing = false;
            let timer = null;
            for (const field of this.sources) {
                field.addEventListener("input", () => {
                    clearTimeout(timer);
                    timer = setTimeout(() => this.proposeAnew(), TYPING);
                });
            }
        }
    }

    const all = [];

    onUiLoaded(function() {
        for (const accordion of gradioApp().querySelectorAll("[id^='script_'][id$='omg_enabled']")) {
            if (!accordion.omgConcepts) all.push(accordion.omgConcepts = new Concepts(accordion));
        }
    });

    onOptionsChanged(() => all.forEach((concepts) => concepts.showCounts()));
    onAfterUiUpdate(() => all.forEach((concepts) => concepts.lookAround()));
})();
