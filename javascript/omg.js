// Cards of LoRAs go into the concept prompt that was clicked last, as they go into the main prompt otherwise.
// The host lets only some kinds of cards follow the focus, and its card tabs hide the accordion: so the click is
// taken over here, and a note in the tab bar says where it will go. Each of the tabs has an accordion of its own.

const OMG_TABS = ["txt2img", "img2img"];

// A component of a tab's accordion. The tab that was there first is not named.
function omgPart(tab, name) {
    return gradioApp().getElementById(`script_${tab == "txt2img" ? "" : `${tab}_`}omg_${name}`);
}

function omgNote(tab) {
    return gradioApp().getElementById(tab == "txt2img" ? "omg_card_target" : `omg_${tab}_card_target`);
}

function omgMainPrompt(tab) {
    return gradioApp().querySelector(`#${tab}_prompt textarea`);
}

function omgConceptOf(textarea) {
    return textarea && textarea.closest(".omg-concept");
}

// The concept that cards go into: null once it is hidden or OMG is switched off.
function omgTarget(tab) {
    const concept = omgConceptOf(activePromptTextarea[tab]);
    const enabled = omgPart(tab, "enabled-checkbox").querySelector("input");
    return concept && enabled.checked && !concept.matches(".hide, .hidden") ? concept : null;
}

function omgShowTarget(tab) {
    const note = omgNote(tab);
    if (!note) return;
    if (omgConceptOf(activePromptTextarea[tab]) && !omgTarget(tab)) {
        activePromptTextarea[tab] = omgMainPrompt(tab);
    }
    const concept = omgTarget(tab);
    const text = concept ? "cards → OMG " + concept.querySelector(".label-wrap span").textContent.trim() : "";
    if (note.textContent != text) note.textContent = text;
}

function omgAddNote(tab) {
    // not a button: the host counts the buttons here to know when its card tabs are ready
    const note = document.createElement("a");
    note.id = tab == "txt2img" ? "omg_card_target" : `omg_${tab}_card_target`;
    note.className = "omg-card-target";
    note.title = "Click a prompt to choose where cards go; click here for the main prompt.";
    note.addEventListener("click", function() {
        activePromptTextarea[tab] = omgMainPrompt(tab);
        omgShowTarget(tab);
    });
    gradioApp().querySelector(`#${tab}_extra_tabs > .tab-nav`).append(note);
}

onUiLoaded(function() {
    const tabs = OMG_TABS.filter((tab) => omgPart(tab, "enabled"));
    const hostCardClicked = cardClicked;
    cardClicked = function(tab, text, negativeText, allowNegativePrompt) {
        const concept = tabs.includes(tab) ? omgTarget(tab) : null;
        if (!concept) return hostCardClicked(tab, text, negativeText, allowNegativePrompt);
        const prompt = concept.querySelector("[id$='_prompt']:not([id$='_negative_prompt']) textarea");
        const negative = concept.querySelector("[id$='_negative_prompt'] textarea");
        const both = negativeText.length > 0;
        updatePromptArea(text, allowNegativePrompt && !both ? activePromptTextarea[tab] : prompt);
        if (both) updatePromptArea(negativeText, negative, true);
    };
    tabs.forEach(omgAddNote);

    document.addEventListener("focusin", function(event) {
        for (const tab of tabs) {
            if (event.target.matches(".omg-concept .prompt textarea") && omgPart(tab, "enabled").contains(event.target)) {
                activePromptTextarea[tab] = event.target;
            }
            omgShowTarget(tab);
        }
    });
});

onAfterUiUpdate(() => OMG_TABS.forEach(omgShowTarget));
