// Cards of LoRAs go into the concept prompt that was clicked last, as they go into the main prompt otherwise.
// The host lets only some kinds of cards follow the focus, and its card tabs hide the accordion: so the click is
// taken over here, and a note in the tab bar says where it will go.

(function() {
    class Cards {
        constructor(accordion) {
            this.accordion = accordion;
            this.tab = accordion.id.includes("img2img") ? "img2img" : "txt2img";
            this.note = this.makeNote();
            gradioApp().querySelector(`#${this.tab}_extra_tabs > .tab-nav`).append(this.note);
        }

        // Not a button: the host counts the buttons there to know when its card tabs are ready.
        makeNote() {
            const note = document.createElement("a");
            const title = "Click a prompt to choose where cards go; click here for the main prompt.";
            Object.assign(note, {id: this.accordion.id.replace(/enabled$/, "card_target"), className: "omg-card-target",
                role: "button", tabIndex: 0, title: getTranslation(title) ?? title});
            const toMain = () => {
                activePromptTextarea[this.tab] = this.mainPrompt;
                this.show();
            };
            note.addEventListener("click", toMain);
            note.addEventListener("keydown", (event) => {
                if (event.key == "Enter" || event.key == " ") {
                    event.preventDefault();
                    toMain();
                }
            });
            return note;
        }

        get mainPrompt() {
            return gradioApp().querySelector(`#${this.tab}_prompt textarea`);
        }

        get isOn() {
            return gradioApp().getElementById(`${this.accordion.id}-checkbox`).querySelector("input").checked;
        }

        // The concept whose prompt was clicked last, if it was one of this accordion.
        get clicked() {
            const textarea = activePromptTextarea[this.tab];
            const concept = textarea && textarea.closest(".omg-concept");
            return concept && this.accordion.contains(concept) ? concept : null;
        }

        // The concept that cards go into: null once it is hidden or OMG is switched off.
        get target() {
            const concept = this.clicked;
            return concept && this.isOn && !concept.matches(".hide, .hidden") ? concept : null;
        }

        show() {
            if (this.clicked && !this.target) activePromptTextarea[this.tab] = this.mainPrompt;
            const name = this.target && this.target.querySelector(".label-wrap span").textContent.trim();
            const text = name ? `cards → OMG ${name}` : "";
            if (this.note.textContent != text) this.note.textContent = text;
        }

        focused(textarea) {
            if (textarea.matches(".omg-concept .prompt textarea") && this.accordion.contains(textarea)) {
                activePromptTextarea[this.tab] = textarea;
            }
            this.show();
        }

        // Whether the card went into a concept.
        takes(text, negativeText, allowNegativePrompt) {
            const concept = this.target;
            if (!concept) return false;
            const prompt = concept.querySelector("[id$='_prompt']:not([id$='_negative_prompt']) textarea");
            const negative = concept.querySelector("[id$='_negative_prompt'] textarea");
            const both = negativeText.length > 0;
            updatePromptArea(text, allowNegativePrompt && !both ? activePromptTextarea[this.tab] : prompt);
            if (both) updatePromptArea(negativeText, negative, true);
            return true;
        }
    }

    const all = [];

    onUiLoaded(function() {
        const accordions = [...gradioApp().querySelectorAll("[id^='script_'][id$='omg_enabled']")];
        const others = accordions.filter((accordion) => !accordion.omgCards);
        if (!others.length) return;
        all.push(...others.map((accordion) => accordion.omgCards = new Cards(accordion)));
        const hostCardClicked = cardClicked;
        cardClicked = function(tab, ...texts) {
            if (!all.some((cards) => cards.tab == tab && cards.takes(...texts))) hostCardClicked(tab, ...texts);
        };
        document.addEventListener("focusin", (event) => all.forEach((cards) => cards.focused(event.target)));
    });

    onAfterUiUpdate(() => all.forEach((cards) => cards.show()));
})();
