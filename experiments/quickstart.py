"""A world that remembers, from nothing, on two CPU cores: 64x64 pictures, 17-frame chunks.

make quickstart            # everything below, then open runs/quickstart/report.html
mirage record   --config=experiments/quickstart.py
mirage train    --config=experiments/quickstart.py
mirage evaluate --config=experiments/quickstart.py
mirage generate --image=photo.png --trajectory=look_away

Measured: 20 minutes on two CPU cores that did little else; revisit PSNR with memory, seed 0,
24.4 dB on Freedoom and 23.1 dB on labmaze.
"""

from ml_collections import ConfigDict


def get_config(_: str = "") -> ConfigDict:
    c = ConfigDict()
    c.name = "quickstart"
    c.seed = 0
    c.tiny = False  # the same run, of sizes that take a CPU no minute a stage
    c.host_devices = 2  # CPU devices to split a batch over; ignored where there is a GPU or TPU

    # Places are scored in the first two, bodies in the third; what cannot be rendered is left out.
    c.worlds = ("freedoom", "labmaze", "labmaze_bodies")
    c.record = ConfigDict()
    c.record.size = 64  # height of the pictures
    c.record.width = 0  # 0: as the height
    c.record.frames = 33  # 17 that leave, 16 that come back
    c.record.gamma = 0.6  # of Freedoom, which is dark; stored in the clip
    c.record.train_clips = ConfigDict({"freedoom": 1200, "labmaze": 320, "procedural": 64})
    c.record.train_clips.freedoom_generated = c.record.train_clips.miniworld = 1200
    c.record.train_clips.openarena = 1200
    c.record.train_clips.procedural_bodies = c.record.train_clips.miniworld_bodies = 480
    c.record.train_clips.labmaze_bodies = c.record.train_clips.freedoom_bodies = 240
    c.record.maps = 200  # of "freedoom_generated" and "miniworld" to train on, each from its number
    c.record.openarena = ""  # folder of the .pk3 files of the game, for the world of this name
    c.record.eval_clips = 64  # per world, on maps and mazes never trained on
    c.record.bodies = 3  # that walk in every clip of worlds such as "labmaze_bodies"
    c.record.skip = 4  # simulated frames left out while they are unseen, at least
    c.record.skip_spread = 96  # so many more at most
    c.record.due = 0.8  # share of clips that look for a body that comes again
    c.record.workers = 2
    c.record.seed = 0
    c.record.shard_clips = 64

    c.data = ConfigDict()  # footage of one's own, in place of the worlds; see docs/data.md
    c.data.root = ""  # folder or file of it; "" = the worlds above
    c.data.format = "auto"  # its layout; auto = as it looks
    c.data.clips = 0  # to train on, at most; 0 = all there are
    c.data.fps = 0.0  # frames per second, by timestamp; 0 = every frame there is
    c.data.hop = 0  # frames between the starts of clips; 0 = no overlap
    c.data.eval_share = 0.1  # of the scenes, held out; of a single scene its last clips
    c.data.missing = "refuse"  # where pictures are missing; or "skip" their frames
    c.data.ground = 255  # grey under transparent pictures
    c.data.picture_fps = 30.0  # of pictures without times
    c.data.orientation = "auto"  # of pictures: as the cameras are; or exif, stored
    c.data.register = True  # bring depth of another lens into the colour picture
    c.data.lens = ()  # fx, fy, cx, cy in pixels, in place of what the files say
    c.data.direction = ""  # of camera files that do not say it: c2w, w2c
    c.data.axes = ""  # likewise: opencv, opengl, llff, unreal
    c.data.units = ""  # likewise: m, cm, mm
    c.data.depth_metres = 0.001  # of one step of 16-bit depth pictures
    c.data.shapes = ""  # picture shapes beside record.size, such as "96x160,160x96"
    c.data.movers = ""  # what moves where no masks say it: "residual" = by depth and poses
    c.data.depth_weights = ""  # Depth Anything V2 (metric), for clips without depth
    c.data.depth_range = 20.0  # metres that it was trained up to: 20 indoors, 80 outdoors
    c.data.encoding = "raw"  # how clips are stored: raw, lossless, visually_lossless

    c.loading = ConfigDict()  # what is trained on; see docs/loading.md
    c.loading.latents = "cached"  # clips encoded once; "video" encodes them before each step
    c.loading.fps = 0.0  # frames per second of windows; 0 = as recorded
    c.loading.window = 0  # frames of windows of longer clips, 1 + n (chunk_frames - 1); 0 = all
    c.loading.returns = 0.7  # share of windows in which the camera comes back
    c.loading.gap = 16  # frames between two sights of a place, at least
    c.loading.later = 0.3  # share of windows whose history may lie after the chunk too
    c.loading.weights = ()  # how often each world is drawn from; () = by its number of clips
    c.loading.skip_share = 0.01  # of the clips, skipped as they cannot be read, before it stops
    c.loading.seconds = 600.0  # for a batch, after which the run stops and names the clip

    c.filters = ConfigDict()  # which clips of footage are left out; see docs/data.md
    c.filters.apply = True  # False: measure alone
    c.filters.black = 0.0  # most black frames, as a share
    c.filters.blur = 0.65  # most blur, 0 sharp to 1
    c.filters.cut = 0.3  # most that a change of the picture stands out, 0 to 1
    c.filters.motion = 1.0  # least motion in the picture, % of its width
    c.filters.parallax = 0.0  # least of it that no turn of the camera explains, % of the width
    c.filters.overlay = 0.3  # most captions and logos, % of the pixels
    c.filters.warp_gain = 2.0  # least dB that depth and poses bring by warping
    c.filters.seen_through = 3.0  # most points that the depth of other frames denies, %
    c.filters.epipolar = 1.2  # most distance of points from where poses allow them, % of the width

    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "context": 1, "tensor": 1})
    c.rules = "full"  # what is split over the mesh: data, fsdp, fsdp_context, full
    c.loader_workers = 0  # loader processes; 0 = threads of the training process

    c.chunk_frames = 17  # 1 + 4 n; the first frame is shared with the previous chunk
    c.chunk_lengths = ()  # (5, 9, 17): denoise chunks of each, the longest being chunk_frames
    c.sky_depth = 200.0  # metres at which the sky is remembered

    c.vae = ConfigDict()
    c.vae.base_width = 4  # the linear path carries most; the decoder adds detail
    c.vae.decoder_width = 16
    c.vae.latent_channels = 64
    c.vae.width_mults = (1, 2, 4)
    c.vae.blocks = 1
    c.vae.temporal_downsample = (True, True)
    c.vae.linear_path = True
    c.vae.attention = False

    c.vae_training = ConfigDict()
    c.vae_training.pretrained = False  # True: <workdir>/model/encoder is there already
    c.vae_training.steps = 150
    c.vae_training.batch_size = 4
    c.vae_training.pixels = 32  # training windows are cut to squares of this size
    c.vae_training.learning_rate = 2e-3
    c.vae_training.warmup = 50
    c.vae_training.kl_weight = 1e-4
    c.vae_training.latent_noise = 0.0  # on what the decoder is trained on, in RMS latents, at most
    c.vae_training.weight_decay = 1e-4
    c.vae_training.stats_per_channel = False  # one number, so that channels keep their weight
    c.vae_training.pca_power = 0.5  # components over std ** power; 1 whitens
    c.vae_training.ema_decay = 0.99

    c.geometry = ConfigDict()
    c.geometry.width = 128
    c.geometry.layers = 2
    c.geometry.movers_up = 4  # what moves is told apart on a grid so much finer than the latents'
    c.geometry.cell_hidden = 512  # of an MLP for movers and image tokens; 0 = as the other maps
    c.geometry.mlp_ratio = 2  # an MLP after each that sees a cell's column and its frame; 0 = none

    c.geometry_training = ConfigDict()
    c.geometry_training.steps = 2400
    c.geometry_training.batch_size = 4  # many small steps learn more of as many clips
    c.geometry_training.learning_rate = 3e-3
    c.geometry_training.warmup = 100
    c.geometry_training.weight_decay = 1e-3
    c.geometry_training.ema_decay = 0.995
    c.geometry_training.mover_weight = 4.0  # of what moves, which is rare
    c.geometry_training.bodies = 0.4  # share of clips in which bodies walk; 0 = by their number

    c.denoiser = ConfigDict()
    c.denoiser.width = 192
    c.denoiser.depth = 6
    c.denoiser.heads = 4
    c.denoiser.mlp_width = 768
    c.denoiser.patch = (1, 2, 2)
    c.denoiser.branch_layers = ()  # blocks of the control branch; () = its input projection alone
    c.denoiser.text_width = 0  # channels of text tokens; 0 = no text
    c.denoiser.attention_backend = "auto"
    c.denoiser.memory_prior = True  # generate what a regression on the read-out leaves open
    c.denoiser.scan = False  # unrolled layers compile longer and run a tenth faster on a CPU

    c.memory = ConfigDict()
    c.memory.capacity = 4096  # elements of a rollout's bank
    c.memory.fuse = True  # in rollouts, what the memory shows already is not stored again
    c.memory.fuse_histories = False  # in training they are appended: fused is no better
    c.memory.match = 0.15  # distance within which cells are the same, in cells
    c.memory.conditioner = "surfels"  # or folded, visibility (the paper's), score
    c.memory.reads = 4  # poses read per latent
    c.memory.fine = 2  # read-out grid relative to the latents'
    c.memory.prefer = "nearest"
    c.memory.footprint = 3  # of folded: cells; what falls near an empty one is shown beside it
    c.memory.movers = False  # train with bodies that move, see experiments/living.py
    c.memory.bodies = True  # rollouts of surfels keep bodies that move, see docs/movers.md

    c.movers = ConfigDict()  # how bodies are kept, see docs/movers.md
    c.movers.slots = 16  # bodies that can be known at once
    c.movers.least_pixels = 16  # below which nothing is taken for a body
    c.movers.birth_pixels = 32  # of one that nobody knows yet
    c.movers.most_covered = 0.1  # of a cell by bodies, for it to be stored as standing still
    c.movers.depth_error = 0.35  # of a body's pixels as the head tells it, relative
    c.movers.acceleration = 0.3  # noise, m/s^2 per square root of Hz
    c.movers.turning = 0.15  # noise of the turn rate, rad/s per square root of s
    c.movers.persistence = 4.0  # seconds after which 1/e is left of a velocity
    c.movers.contact = "bounce"  # what a body does that meets something; or slide, stop

    c.text = ConfigDict()
    c.text.embeddings = ""  # file of embedded prompts (mirage_jax.io.text); "" trains without text
    c.text.captions = False  # True: clips with captions get those, see docs/loading.md
    c.text.prompts = ConfigDict()  # of each world

    c.denoiser_training = ConfigDict()
    c.denoiser_training.trained = "all"  # or "branch", "branch_lora": the rest is frozen
    c.denoiser_training.pretrained = ""  # export with the frozen weights
    c.denoiser_training.steps = 600
    c.denoiser_training.batch_size = 16
    c.denoiser_training.learning_rate = 1.5e-3
    c.denoiser_training.warmup = 60
    c.denoiser_training.weight_decay = 0.01
    c.denoiser_training.ema_decay = 0.995
    c.denoiser_training.shift = 1.0  # noise-level shift, s' = shift s / (1 + (shift - 1) s)
    c.denoiser_training.precondition = True  # predict what the noisy latent leaves open
    c.denoiser_training.per_frame = False  # a noise level per latent: for sampling.method staggered
    c.denoiser_training.drop_memory = 0.1
    c.denoiser_training.drop_text = 0.0
    c.denoiser_training.references = 0  # remembered frames that a chunk is shown clean, at most
    c.denoiser_training.preceding = 0  # frames before it that it is shown too, 0 or 1 + 4 n
    c.denoiser_training.depth_noise = 0.03  # relative; largest deviation of a history frame
    c.denoiser_training.pose_noise = 0.01  # metres and radians
    c.denoiser_training.token_noise = 0.05  # standard deviations of a latent
    c.denoiser_training.predicted_histories = 0.0  # share of them as the geometry head sees them

    c.sampling = ConfigDict()
    c.sampling.steps = 2  # more steps draw detail that minutes of training cannot place
    c.sampling.shift = 1.0
    c.sampling.method = "euler"  # heun, unipc, or staggered: latents one after the other
    c.sampling.reencode = False  # write re-encoded frames instead of the head's image tokens

    c.evaluation = ConfigDict()
    c.evaluation.videos = 3  # clips shown per world
    c.evaluation.fps = 8.0
    c.evaluation.bodies = 16  # clips with bodies that the report scores, at most

    for training in (c.vae_training, c.geometry_training, c.denoiser_training):
        training.init_from = ""  # run or export to take tensors of the same name from; "" = none
        training.accumulate = 1  # parts of a batch worked on one after the other
        training.optimizer = "adamw"  # or lion, sgd
        training.betas = (0.9, 0.99)  # of Adam and Lion; the first is SGD's momentum
        training.schedule = "cosine"  # or linear, constant, wsd
        training.clip_norm = 1.0  # global norm of gradients; 0 = not clipped

    c.guard = ConfigDict()  # a step without a finite loss and gradient is always skipped
    c.guard.spike = 0.0  # skip gradients of more than this many times the average norm; 0 = none
    c.guard.window = 100  # steps of that average
    c.guard.patience = 10  # skipped steps in a row before rolling back to the newest checkpoint
    c.guard.rollbacks = 3  # times it may roll back to the same one

    c.compile = ConfigDict()  # what `mirage compile` assumes
    c.compile.batch_per_shard = 1  # clips per device of the data and fsdp axes
    c.compile.text_tokens = 512

    c.log_every = 50
    c.sample_every = 0  # sample sheets; 0 = none
    c.save_every = 500
    c.eval_every = 0  # evaluations on held-out clips; 0 = at the end alone
    c.keep_best = ""  # metric of them: the checkpoint with the lowest is kept beside the newest
    c.start_over = False  # True: begin anew where a stage's checkpoints are all damaged
    c.profile_steps = (0, 0)  # first and last step of a trace
    c.wandb = ""  # project of Weights & Biases that gets the metrics too

    c.tiny_overrides = (
        ("worlds", ("procedural",)),
        ("record.size", 32),
        ("vae_training.pixels", 32),
        ("record.train_clips.procedural", 16),
        ("record.eval_clips", 16),
        ("record.workers", 0),
        ("vae.base_width", 4),
        ("vae.decoder_width", 4),
        ("vae.latent_channels", 8),
        ("vae_training.steps", 4),
        ("geometry.width", 16),
        ("geometry_training.steps", 4),
        ("denoiser.width", 48),
        ("denoiser.depth", 2),
        ("denoiser.heads", 2),
        ("denoiser.mlp_width", 96),
        ("denoiser_training.steps", 4),
        ("denoiser_training.batch_size", 4),
        ("memory.capacity", 512),
        ("sampling.steps", 2),
        ("log_every", 2),
        ("sample_every", 0),
        ("evaluation.videos", 1),
    )
    return c
