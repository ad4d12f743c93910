// Cards of LoRAs go into the concept prompt that was clicked last, as they go into the main prompt otherwise.
// The host lets only some kinds of cards follow the focus, and its card tabs hide the accordion: so the click is
// taken over here, and a note in the tab bar says where it will go.

function omgMainPrompt() {
    return gradioApp().querySelector("#txt2img_prompt textarea");
}

function omgConceptOf(textarea) {
    return textarea && textarea.closest(".omg-concept");
}

// The concept that cards go into: null once it is hidden or OMG is switched off.
function omgTarget() {
    const concept = omgConceptOf(activePromptTextarea.txt2img);
    const enabled = gradioApp().querySelector("#script_omg_enabled-checkbox input");
    return concept && enabled.checked && !concept.matches(".hide, .hidden") ? concept : null;
}

function omgShowTarget() {
    const note = gradioApp().getElementById("omg_card_target");
    if (!note) return;
    if (omgConceptOf(activePromptTextarea.txt2img) && !omgTarget()) {
        activePromptTextarea.txt2img = omgMainPrompt();
    }
    const concept = omgTarget();
    const text = concept ? "cards → OMG " + concept.querySelector(".label-wrap span").textContent.trim() : "";
    if (note.textContent != text) note.textContent = text;
}

onUiLoaded(function() {
    const hostCardClicked = cardClicked;
    cardClicked = function(tabname, text, negativeText, allowNegativePrompt) {
        const concept = tabname == "txt2img" ? omgTarget() : null;
        if (!concept) return hostCardClicked(tabname, text, negativeText, allowNegativePrompt);
        const prompt = concept.querySelector("[id$='_prompt']:not([id$='_negative_prompt']) textarea");
        const negative = concept.querySelector("[id$='_negative_prompt'] textarea");
        const both = negativeText.length > 0;
        updatePromptArea(text, allowNegativePrompt && !both ? activePromptTextarea.txt2img : prompt);
        if (both) updatePromptArea(negativeText, negative, true);
    };

    // not a button: the host counts the buttons here to know when its card tabs are ready
    const note = document.createElement("a");
    note.id = "omg_card_target";
    note.title = "Click a prompt to choose where cards go; click here for the main prompt.";
    note.addEventListener("click", function() {
        activePromptTextarea.txt2img = omgMainPrompt();
        omgShowTarget();
    });
    gradioApp().querySelector("#txt2img_extra_tabs > .tab-nav").append(note);

    document.addEventListener("focusin", function(event) {
        if (event.target.matches(".omg-concept .prompt textarea")) {
            activePromptTextarea.txt2img = event.target;
        }
        omgShowTarget();
    });
});

onAfterUiUpdate(omgShowTarget);
