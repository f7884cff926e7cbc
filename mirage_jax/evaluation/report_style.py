"""The look of the report: its style sheet and the script of its video player."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--ink:#1c2127;--soft:#5b6470;--line:#e2e3df;
--ours:#0a7a9c;--rival:#c2700a;--ablation:#8a5a9e;--copy:#7d858f;--bound:#3f464f;--good:#1a7f4b;
--bad:#c0392b;--wait:#8a8f98;--tint:#eef5f7}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1c2026;--ink:#e6e8eb;--soft:#9aa3af;
--line:#2e343c;--ours:#4fc3e8;--rival:#f0a844;--ablation:#c79ade;--copy:#98a1ac;--bound:#c9d0d8;
--good:#5fd39a;--bad:#ff7f70;--wait:#838b96;--tint:#1b2a31}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:70rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:clamp(1.7rem,4vw,2.4rem);line-height:1.15;margin:0 0 .4rem;letter-spacing:-.02em}
h2{font-size:1.35rem;margin:3.2rem 0 .3rem;letter-spacing:-.01em}
h3{font-size:1.02rem;margin:1.6rem 0 .4rem}
p{margin:.3rem 0 .9rem;max-width:46rem}
.soft,figcaption,.note{color:var(--soft)}
.meta{color:var(--soft);margin:0}
nav{margin:1.1rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.92rem}
a{color:var(--ours);text-decoration:none}a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(14.5rem,1fr));gap:.9rem;
margin:1.6rem 0 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem}
.card b{display:block;font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.card b small{font-size:1rem;font-weight:500;color:var(--soft);letter-spacing:0;margin-left:.25rem}
.card h3{margin:0 0 .2rem;font-size:.88rem;font-weight:600;color:var(--soft)}
.card p{margin:.35rem 0 0;font-size:.92rem;color:var(--soft)}
.card:first-child b{color:var(--ours)}
.player{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.9rem 1rem 1rem;margin:1rem 0}
.player h3{margin:0}.player .note{margin:.1rem 0 .7rem;font-size:.92rem}
.panels{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(192px,280px);gap:.6rem;
overflow-x:auto;padding-bottom:.3rem}
.panels figure{margin:0}
.panels figcaption{font-size:.86rem;margin:0 0 .25rem;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis}
canvas{width:100%;height:auto;display:block;border-radius:6px;background:#000}
.pixelated{image-rendering:pixelated;image-rendering:crisp-edges;image-rendering:pixelated}
.controls{display:flex;align-items:center;gap:.7rem;margin-top:.55rem}
.controls button{border:1px solid var(--line);background:var(--bg);color:var(--ink);
border-radius:8px;width:2.4rem;height:2rem;font-size:.9rem;cursor:pointer;flex:none}
.controls output{font-size:.86rem;color:var(--soft);min-width:15rem;
font-variant-numeric:tabular-nums}
.track{flex:1;min-width:5rem;position:relative}
.track input{width:100%;margin:0;display:block;accent-color:var(--ours)}
.phases{display:flex;height:4px;border-radius:2px;overflow:hidden;gap:2px;margin:0 8px}
.phases i{display:block;background:var(--line)}
.phases i.generated{background:var(--ours);opacity:.5}
.phases i.revisit{background:var(--ours)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:12px;background:var(--card);
margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.5rem .8rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>td,tbody tr:last-child>th{border-bottom:0}
thead th{font-weight:600;color:var(--soft);font-size:.84rem;white-space:nowrap}
tbody th{font-weight:500;min-width:9.5rem}
td{white-space:nowrap}td.target{white-space:normal;min-width:7.6rem}
td.target small span{white-space:nowrap;margin-right:.6rem}
td.words{white-space:normal;min-width:16rem}
.number{text-align:right}
tbody th small,td small{display:block;color:var(--soft);font-weight:400;font-size:.82rem}
tr.ours{background:var(--tint)}tr.ours th{color:var(--ours);font-weight:650}
.tick{display:inline-block;width:1.25rem;font-weight:700}
.good{color:var(--good)}.bad{color:var(--bad)}.wait{color:var(--wait)}
.plot{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.8rem 1rem .6rem;margin:.8rem 0}
.plot h3{margin-top:0}
.plot .line{display:grid;grid-template-columns:9.5rem 1fr 7rem;gap:.7rem;align-items:center}
.plot .name{font-size:.92rem}.plot .value{font-size:.92rem;text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}
.plot .value small{color:var(--soft)}
.plot svg{display:block;overflow:visible}
.grid{stroke:var(--line)}.zero{stroke:var(--soft);stroke-width:1.5}
.axis text{fill:var(--soft);font-size:12px}
.c-ours{--c:var(--ours)}.c-rival{--c:var(--rival)}.c-ablation{--c:var(--ablation)}
.c-copy{--c:var(--copy)}.c-bound{--c:var(--bound)}
.dot{fill:var(--c)}.ring,.diamond{fill:var(--card);stroke:var(--c);stroke-width:1.6}
.whisker{stroke:var(--c);stroke-width:2.5;opacity:.55}
.sample{fill:var(--c);opacity:.75}.sample.below{fill:var(--bad);opacity:1}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.84rem;color:var(--soft);
margin:.5rem 0 0}
.legend svg{display:inline-block;vertical-align:middle;margin-right:.35rem}
.part-0{fill:#2b7fa3}.part-1{fill:#5aa786}.part-2{fill:#c98a2b}.part-3{fill:#9a6bb0}
.part-4{fill:#b5524a}.part-5{fill:#6f7f95}.part-6{fill:#8a9a3c}.part-7{fill:#4f5f7f}
.swatch{width:.8rem;height:.8rem;border-radius:3px}
.pictures{display:grid;grid-template-columns:1fr;gap:1.2rem;margin:.8rem 0}
.pictures figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:.9rem 1rem;min-width:0}
.pictures .frame{overflow-x:auto}
.pictures img{display:block;border-radius:6px;max-width:none}
.pictures .fits img{max-width:100%;height:auto}
.pictures .wide img{width:100%;min-width:46rem;height:auto}
.pictures figcaption{margin-top:.5rem;font-size:.92rem;max-width:46rem}
.pictures b{display:block;margin-bottom:.5rem}
@media (min-width:60rem){.pictures{grid-template-columns:1fr 1fr}.pictures .wide{grid-column:1/-1}}
.missing{border-left:3px solid var(--rival);padding:.1rem 0 .1rem .9rem;margin:.8rem 0}
code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,monospace;font-size:.92em}
li{margin:.35rem 0;max-width:46rem}ul{padding-left:1.2rem}
details{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.7rem 1rem;
margin:.8rem 0}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;
font:.82rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace;margin:.7rem 0 0}
@media (max-width:40rem){main{padding-top:1.6rem}
.plot .line{grid-template-columns:1fr auto;gap:0 .5rem;margin-bottom:.3rem}
.plot .line svg{grid-row:2;grid-column:1/-1}
.plot .value br{display:none}
.plot .name,.plot .value{font-size:.84rem}.axis .minor{display:none}
th,td{padding:.45rem .6rem}
.controls{flex-wrap:wrap}.track{flex-basis:60%}
.controls output{order:3;min-width:0}}
@media print{.controls,nav{display:none}}
"""

# Every panel of a player is one sheet of frames, drawn on canvases from the same frame counter:
# panels cannot drift apart, as separate video elements do.
SCRIPT = """
(() => {
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  const seen = new IntersectionObserver(entries => {
    for (const e of entries) e.target.visible = e.isIntersecting;
  });
  const players = [...document.querySelectorAll('.player')].map(root => {
    const d = root.dataset, frames = +d.frames, history = +d.history, revisit = +d.revisit;
    const slider = root.querySelector('input'), button = root.querySelector('button');
    const text = root.querySelector('output');
    const panels = [...root.querySelectorAll('canvas')].map(canvas => {
      const sheet = new Image();
      sheet.onload = () => draw();
      sheet.src = canvas.dataset.sheet;
      return {canvas, sheet, columns: +canvas.dataset.columns, at: canvas.getContext('2d')};
    });
    let frame = 0, playing = !still, due = 0;
    const phase = i => !history ? '' : i < history ? ' · given' :
      revisit && i >= revisit ? ' · generated, revisit' : ' · generated';
    function draw() {
      for (const p of panels) {
        if (!p.sheet.complete || !p.sheet.naturalWidth) continue;
        const w = p.canvas.width, h = p.canvas.height;
        const x = frame % p.columns * w, y = Math.floor(frame / p.columns) * h;
        p.at.drawImage(p.sheet, x, y, w, h, 0, 0, w, h);
      }
      slider.value = frame;
      text.textContent = `frame ${frame} of ${frames - 1}${phase(frame)}`;
    }
    function label() {
      button.textContent = playing ? '\\u275A\\u275A' : '\\u25B6';
      button.setAttribute('aria-label', playing ? 'pause' : 'play');
    }
    button.onclick = () => { playing = !playing; due = 0; label(); };
    slider.oninput = () => { playing = false; frame = +slider.value; label(); draw(); };
    label(); draw(); seen.observe(root);
    return now => {
      if (!playing || !root.visible || now < due) return;
      if (due) frame = (frame + 1) % frames;
      // A pause at both ends lets the eye compare where the path leaves and returns.
      due = now + 1000 / +d.fps + (frame === frames - 1 || frame === 0 ? 500 : 0);
      draw();
    };
  });
  const step = now => { for (const p of players) p(now); requestAnimationFrame(step); };
  requestAnimationFrame(step);
})();
"""
