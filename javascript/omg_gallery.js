// What an extra picture shows stands on it in the gallery, in its concept's colour. The host hands bare pictures to the
// gallery, so their infotexts, which it keeps beside, tell which is which.

(function() {
    const PICTURE = /OMG picture: ([^,\n]+)/;
    const COLOURS = 7;

    const read = {}; // by tab: the account of the last generation, and what its pictures show

    function titles(tab) {
        const info = gradioApp().querySelector(`#generation_info_${tab} textarea`)?.value;
        if (!info) return [];
        if (read[tab]?.info != info) {
            const texts = JSON.parse(info).infotexts ?? [];
            read[tab] = {info, titles: texts.map((text) => PICTURE.exec(text)?.[1] ?? "")};
        }
        return read[tab].titles;
    }

    // The large pictures, and the strip below one of them.
    function label(tab) {
        const all = titles(tab);
        for (const size of ["small", "lg"]) {
            gradioApp().querySelectorAll(`#${tab}_gallery .thumbnail-${size}`).forEach((item, index) => {
                const title = all[index] ?? "";
                if ((item.dataset.omgTitle ?? "") == title) return;
                const concept = /concept (\d+)/.exec(title);
                item.title = title;
                item.dataset.omgTitle = title;
                item.dataset.omgLabel = concept && size == "small" ? concept[1] : title;
                for (let colour = 1; colour <= COLOURS; colour++) item.classList.remove(`omg-colour-${colour}`);
                if (concept) item.classList.add(`omg-colour-${(concept[1] - 1) % COLOURS + 1}`);
            });
        }
    }

    onAfterUiUpdate(() => ["txt2img", "img2img"].forEach(label));
})();
