"use strict";
for (const section of document.querySelectorAll(".video")) {
  const video = section.querySelector("video");
  const strip = section.querySelector(".strip");
  const cells = [...section.querySelectorAll(".cell")];
  const questions = [...section.querySelectorAll(".question")];
  const duration = Number(section.dataset.duration);
  // Where playing ends by itself, when a moment is played; null while the viewer plays.
  let stopAt = null;

  const spans = (text) => text.split(" ").filter(Boolean).map((span) => span.split("-").map(Number));
  const touches = (cell, list) =>
    list.some(([start, stop]) => Number(cell.dataset.start) < stop && start < Number(cell.dataset.stop));

  const seek = (start, stop, play) => {
    stopAt = stop;
    video.currentTime = start;
    video.scrollIntoView({ block: "nearest", behavior: "smooth" });
    if (play) video.play().catch(() => {});
  };

  const pick = (question) => {
    for (const other of questions) {
      other.classList.toggle("picked", other === question);
      other.querySelector(".pick").setAttribute("aria-pressed", String(other === question));
    }
    const moments = spans(question.dataset.moments);
    const evidence = spans(question.dataset.evidence);
    strip.classList.toggle("picked", moments.length + evidence.length > 0);
    for (const cell of cells) {
      cell.classList.toggle("lit", touches(cell, moments));
      cell.classList.toggle("true", touches(cell, evidence));
    }
  };

  for (const question of questions) {
    question.querySelector(".pick").addEventListener("click", () => pick(question));
    for (const moment of question.querySelectorAll(".moment")) {
      moment.addEventListener("click", (event) => {
        event.stopPropagation();
        pick(question);
        seek(Number(moment.dataset.start), Number(moment.dataset.stop), true);
      });
    }
    const track = question.querySelector(".track");
    track.addEventListener("click", (event) => {
      const box = track.getBoundingClientRect();
      pick(question);
      seek(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * duration, null, false);
    });
  }

  // The strip is one stop of the Tab key; arrows walk inside it.
  const walk = (from, to) => {
    if (!cells[to]) return;
    cells[from].tabIndex = -1;
    cells[to].tabIndex = 0;
    cells[to].focus();
  };
  cells.forEach((cell, place) => {
    cell.addEventListener("click", () => seek(Number(cell.dataset.start), null, false));
    cell.addEventListener("keydown", (event) => {
      const row = cells.filter((other) => other.offsetTop === cells[0].offsetTop).length;
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
      const target = { Home: 0, End: cells.length - 1 }[event.key] ?? (step === undefined ? null : place + step);
      if (target === null) return;
      event.preventDefault();
      walk(place, target);
    });
  });

  const follow = () => {
    const now = video.currentTime;
    section.style.setProperty("--playhead", `${(100 * now) / duration}%`);
    for (const cell of cells) {
      cell.classList.toggle("now", Number(cell.dataset.start) <= now && now < Number(cell.dataset.stop));
    }
    if (stopAt !== null && now >= stopAt) {
      const stop = stopAt;
      stopAt = null;
      video.pause();
      // On a busy machine this may be noticed late.
      if (now > stop + 0.3) video.currentTime = stop;
    }
  };
  video.addEventListener("timeupdate", follow);
  video.addEventListener("seeked", follow);
  // `timeupdate` comes four times a second, which is coarse for moments of one second.
  const tick = () => {
    follow();
    if (!video.paused) requestAnimationFrame(tick);
  };
  video.addEventListener("play", tick);
  video.addEventListener("pause", () => {
    stopAt = null;
  });
}
