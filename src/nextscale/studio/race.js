() => {
  // Replays a comparison that race.py wrote: each clock is the one that was measured, slower where that is chosen.
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let picked = null; // the speed that was chosen by hand, which further comparisons keep

  const last = (parts, time) => parts.findLast(one => Number(one.dataset.at) <= time + 1e-9);

  const show = (race, time) => {
    const end = Number(race.dataset.end), digits = Number(race.dataset.decimals);
    const lanes = race.querySelectorAll(".lane"), tracks = race.querySelectorAll(".track");
    lanes.forEach((lane, place) => {
      const pictures = [...lane.querySelectorAll("[data-at]")], now = last(pictures, time);
      pictures.forEach(one => (one.hidden = one !== now));
      const ticks = [...tracks[place].querySelectorAll("i")], total = lane.dataset.steps;
      const clock = Math.min(time, Number(ticks.at(-1).dataset.at));
      const steps = last(ticks, time)?.dataset.steps ?? 0;
      lane.querySelector(".clock").textContent = `${steps} of ${total} steps, ${clock.toFixed(digits)}\u00a0s`;
      tracks[place].querySelector("b").style.width = `${(100 * clock) / end}%`;
    });
    const scrub = race.querySelector(".scrub");
    scrub.value = (1000 * time) / end;
    scrub.setAttribute("aria-valuetext", `${time.toFixed(digits)} s`);
    race.dataset.time = time;
  };

  const pause = race => {
    race.playing = null;
    race.querySelector(".replay").textContent = Number(race.dataset.time) < Number(race.dataset.end) ? "Go on" : "Replay";
  };

  const play = race => {
    const end = Number(race.dataset.end), begun = Number(race.dataset.time ?? end);
    let time = begun < end ? begun : 0, before = null;
    race.querySelector(".replay").textContent = "Pause";
    const mine = (race.playing = {});
    const frame = now => {
      if (race.playing !== mine || !race.isConnected) return;
      const speed = Number(race.querySelector(".speeds input:checked").value);
      time = Math.min(end, time + (before === null ? 0 : ((now - before) / 1000) * speed));
      before = now;
      show(race, time);
      time < end ? requestAnimationFrame(frame) : pause(race);
    };
    requestAnimationFrame(frame);
  };

  const seen = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      if (!calm.matches) play(target);
    }
  });

  const found = () => {
    for (const race of document.querySelectorAll(".race:not([data-running], [data-known])")) {
      race.dataset.known = "";
      const speed = picked && race.querySelector(`.speeds input[value="${picked}"]`);
      if (speed) speed.checked = true;
      seen.observe(race);
    }
  };
  new MutationObserver(found).observe(document.body, { subtree: true, childList: true });
  found();

  document.addEventListener("click", event => {
    const race = event.target.closest?.(".replay")?.closest(".race");
    if (race) race.playing ? pause(race) : play(race);
  });
  document.addEventListener("input", event => {
    const race = event.target.closest?.(".race");
    if (!race) return;
    if (event.target.matches(".speeds input")) picked = event.target.value;
    if (!event.target.matches(".scrub")) return;
    race.playing = null;
    show(race, (Number(event.target.value) / 1000) * Number(race.dataset.end));
    pause(race);
  });
}
