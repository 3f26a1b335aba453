"""Small random networks of keras-hub, each by its constructor; nothing is downloaded. See zoo_keras_hub.py."""

import keras
import keras_hub
import numpy as np
from keras_hub import models as M
from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import convert_arch_def_to_stackwise
from keras_hub.src.models.rqvae.rqvae_backbone import RQVAEBackbone
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

VOCABULARY, LENGTH, POSITIONS, IMAGE = 50, 8, 32, 32
PHOTO = (IMAGE, IMAGE, 3)
WORDS = {"vocabulary_size": VOCABULARY}
WIDTHS = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 64}
ENCODER = {**WORDS, **WIDTHS, "num_heads": 2}
GROUPED = {**WORDS, **WIDTHS, "num_query_heads": 4, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8}
EXPERTS = {**GROUPED, "num_experts": 3, "top_k": 2}
QWEN_3_5 = {
    **{key: value for key, value in GEMMA.items() if key != "intermediate_dim"},
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
VISION = {**WIDTHS, "num_heads": 2, "image_shape": PHOTO, "patch_size": 8}
TOWER = {**ENCODER, "embedding_dim": 16, "max_sequence_length": POSITIONS}


def bert_like(name, **arguments):
    return getattr(M, name)(**{**ENCODER, "max_sequence_length": POSITIONS, **arguments})


def albert():
    return bert_like("AlbertBackbone", embedding_dim=8, num_groups=1, num_inner_repetitions=1)


def bert():
    return bert_like("BertBackbone")


def electra():
    arguments = {key: value for key, value in ENCODER.items() if key != "vocabulary_size"}
    return M.ElectraBackbone(vocab_size=VOCABULARY, embedding_dim=8, max_sequence_length=POSITIONS, **arguments)


def deberta():
    return bert_like("DebertaV3Backbone", bucket_size=4)


def esm():
    return bert_like("ESMBackbone")


def f_net():
    return M.FNetBackbone(**WORDS, **WIDTHS, max_sequence_length=POSITIONS)


def roformer():
    return M.RoformerV2Backbone(**ENCODER, head_size=8)


def edrec():
    return M.EdRecBackbone(
        vocab_size=VOCABULARY, num_layers_enc=2, num_layers_dec=2, hidden_dim=16, intermediate_dim=32, num_heads=2
    )


def t5_gemma(name, **arguments):
    side = {
        "hidden_dim": 16,
        "intermediate_dim": 32,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["full_attention"] * 2,
    }
    both = {f"{which}_{key}": value for which in ("encoder", "decoder") for key, value in side.items()}
    return getattr(M, name)(**WORDS, **both, **arguments)


def gemma_3n():
    return M.Gemma3nBackbone(
        text_vocab_size=VOCABULARY,
        text_hidden_size=16,
        num_hidden_layers=2,
        pad_token_id=0,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=[32, 32],
        hidden_activation="gelu_approximate",
        layer_types=["full_attention"] * 2,
        sliding_window=4,
        rope_theta=10000.0,
        max_position_embeddings=POSITIONS,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=4,
        altup_num_inputs=2,
        laurel_rank=4,
    )


def gpt_oss():
    return M.GptOssBackbone(**EXPERTS)


def smol_lm3():
    return M.SmolLM3Backbone(
        **WORDS,
        **WIDTHS,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True, True],
        layer_types=["attention"] * 2,
        mlp_bias=False,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=POSITIONS,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    )


def qwen_moe(name):
    more = {"shared_expert_intermediate_dim": 32} if name == "QwenMoeBackbone" else {"head_dim": 8}
    return getattr(M, name)(**GROUPED, moe_intermediate_dim=16, num_experts=3, top_k=2, **more)


def qwen_3_5():
    return M.Qwen3_5Backbone(**QWEN_3_5, intermediate_dim=32)


def qwen_3_5_moe():
    return M.Qwen3_5MoeBackbone(
        **QWEN_3_5, moe_intermediate_dim=16, shared_expert_intermediate_size=32, num_experts=3, top_k=2
    )


def rwkv():
    loras = {"gate_lora": 8, "mv_lora": 8, "aaa_lora": 8, "decay_lora": 8}
    return M.RWKV7Backbone(**WORDS, hidden_size=16, head_size=8, num_layers=2, intermediate_dim=32, **loras)


def whisper():
    return M.WhisperBackbone(
        **ENCODER, num_mels=8, max_encoder_sequence_length=POSITIONS, max_decoder_sequence_length=POSITIONS
    )


def moonshine():
    return M.MoonshineBackbone(
        **WORDS,
        filter_dim=16,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=16,
        intermediate_dim=32,
        encoder_num_heads=2,
        decoder_num_heads=2,
    )


def clip_like(name):
    vision = getattr(M, name.replace("Backbone", "VisionEncoder"))(**VISION)
    text = getattr(M, name.replace("Backbone", "TextEncoder"))(**TOWER)
    arguments = {} if name.startswith("SigLIP") else {"projection_dim": 16}
    return getattr(M, name)(vision, text, **arguments)


def pali_gemma():
    vision = {"vit_patch_size": 8, "vit_num_heads": 2, "vit_hidden_dim": 16, "vit_num_layers": 2}
    return M.PaliGemmaBackbone(**GEMMA, image_size=IMAGE, vit_intermediate_dim=32, **vision)


def gemma_3_vision():
    return M.Gemma3VisionEncoder(image_size=IMAGE, patch_size=8, num_heads=2, pool_size=2, output_dim=16, **WIDTHS)


def vit():
    return M.ViTBackbone(PHOTO, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def deit():
    return M.DeiTBackbone(**VISION)


def dino(name, **arguments):
    return getattr(M, name)(**VISION, **arguments)


def dino_v2():
    return dino("DINOV2Backbone", position_embedding_shape=PHOTO)


def video_prism():
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 0}
    widths = {"hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2}
    return M.VideoPrismBackbone(num_frames=2, patch_size=8, image_shape=PHOTO, **layers, **widths)


def vit_det(**arguments):
    widths = {"hidden_size": 16, "num_layers": 2, "intermediate_dim": 32, "num_heads": 2, "window_size": 2}
    return M.ViTDetBackbone(
        **{
            **widths,
            "global_attention_layer_indices": [1],
            "image_shape": PHOTO,
            "patch_size": 8,
            "num_output_channels": 8,
            **arguments,
        }
    )


def swin():
    return M.SwinTransformerBackbone(PHOTO, embed_dim=16, depths=[2, 2], num_heads=[2, 2], window_size=4, patch_size=4)


def mit():
    return M.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        image_shape=PHOTO,
        hidden_dims=[16, 32],
    )


def par_seq():
    encoder = M.ViTBackbone(PHOTO, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, use_class_token=False)
    return M.PARSeqBackbone(
        encoder,
        **WORDS,
        max_label_length=POSITIONS,
        decoder_hidden_dim=16,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=32,
    )


def depth_anything():
    shape = (64, 64, 3)
    arguments = {**VISION, "num_layers": 4, "image_shape": shape, "position_embedding_shape": shape}
    encoder = M.DINOV2Backbone(**arguments, apply_layernorm=True)
    return M.DepthAnythingBackbone(
        encoder,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[16, 16, 16, 16],
        fusion_hidden_dim=16,
        head_hidden_dim=16,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    )


def resnet(block="basic_block", filters=(64, 32), image=PHOTO, **arguments):
    return M.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=list(filters),
        stackwise_num_blocks=[1] * len(filters),
        stackwise_num_strides=[1] + [2] * (len(filters) - 1),
        block_type=block,
        image_shape=image,
        **arguments,
    )


def mobile_net():
    return M.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144]],
        stackwise_num_blocks=[2, 2],
        stackwise_num_filters=[[16, 16], [24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1, 1], [2, 2]],
        output_num_filters=64,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=64,
        squeeze_and_excite=0.5,
        image_shape=PHOTO,
    )


def mobile_net_v5():
    blocks = convert_arch_def_to_stackwise(
        [["er_r1_k3_s2_e4_c16"], ["uir_r1_a3_k5_s2_e4_c32", "mqa_r1_k3_h2_s1_d16_c32"]]
    )
    return M.MobileNetV5Backbone(**blocks, num_features=32, image_shape=PHOTO, use_msfa=False)


def efficient_net():
    return M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 32],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1", "v1", "v1"],
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        input_shape=PHOTO,
        num_features=64,
    )


def efficient_net_v2():
    return M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 3],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[16, 16, 24],
        stackwise_output_filters=[16, 24, 32],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.0, 0.0, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "fused", "unfused"],
        stackwise_force_input_filters=[0] * 3,
        stackwise_nores_option=[False] * 3,
        input_shape=PHOTO,
        num_features=64,
    )


def csp_net(stage, kind, **arguments):
    return M.CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[2, 2],
        stackwise_num_filters=[16, 32],
        block_type=kind,
        stage_type=stage,
        image_shape=PHOTO,
        **arguments,
    )


def dense_net():
    return M.DenseNetBackbone([2, 2], image_shape=PHOTO, growth_rate=8)


def hg_net():
    # in, middle and out channels, blocks, layers, kernel
    stages = [[16, 16, 32, 1, 3, 3], [32, 16, 64, 1, 3, 3]]
    return M.HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=16,
        hidden_sizes=[32, 64],
        stem_channels=[3, 16, 16],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=stages,
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        image_shape=PHOTO,
    )


def vgg():
    return M.VGGBackbone([1, 2], [16, 32], image_shape=PHOTO)


def xception():
    return M.XceptionBackbone([[16, 32], [32, 64], [96, 96]], [True, True, False], image_shape=(71, 71, 3))


def vae():
    return VAEBackbone([32, 32], [1, 1], [32, 32], [1, 1], sampler_method="mode", sample_channels=8, input_channels=3)


def rq_vae():
    return RQVAEBackbone(
        input_dim=10,
        encoder_layer_dims=[32, 16],
        output_dim=8,
        decoder_layer_dims=[16, 32],
        num_embeddings=16,
        num_quantizers=2,
    )


def deep_lab():
    return M.DeepLabV3Backbone(
        resnet(filters=(64, 32, 32, 32), image=(64, 64, 3)),
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        upsampling_size=(8, 8),
        dilation_rates=[2, 4],
        projection_filters=16,
        image_shape=(64, 64, 3),
    )


def retina_net():
    encoder = resnet(filters=(64, 32, 32, 32), image=(64, 64, 3))
    return M.RetinaNetBackbone(encoder, min_level=3, max_level=6, use_p5=False, image_shape=(64, 64, 3))


def bas_net():
    return M.BASNetBackbone(
        resnet(filters=(64, 64, 64, 64), image=(None, None, 3)), 1, (64, 64, 3), projection_filters=64
    )


def sam():
    encoder = vit_det(image_shape=(64, 64, 3), patch_size=16)
    prompts = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_channels=4
    )
    decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=32,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=2,
        iou_head_hidden_dim=8,
    )
    return M.SAMBackbone(encoder, prompts, decoder)


def flux():
    return M.FluxBackbone(
        input_channels=8,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[2, 2, 4],
        theta=10000,
        use_bias=True,
        image_shape=(4, 8),
        text_shape=(4, 8),
        image_ids_shape=(4, 3),
        text_ids_shape=(4, 3),
        y_shape=(8,),
    )


def stable_diffusion():
    tower = {**TOWER, "max_sequence_length": 77}
    clip_l = M.CLIPTextEncoder(**tower, intermediate_output_index=0, name="clip_l")
    clip_g = M.CLIPTextEncoder(**tower, intermediate_output_index=0, name="clip_g")
    model = M.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=16,
        mmdit_num_layers=2,
        mmdit_num_heads=2,
        mmdit_position_size=16,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=VAEBackbone([32, 32], [1, 1], [32, 32], [1, 1], sampler_method="mode", sample_channels=32),
        clip_l=clip_l,
        clip_g=clip_g,
        image_shape=(64, 64, 3),
        latent_channels=16,
    )
    model.configure_scheduler(4)
    return model


def blip2():
    vision = M.BLIP2VisionEncoder(
        image_size=IMAGE,
        patch_size=8,
        **WIDTHS,
        num_heads=2,
        use_patch_bias=True,
        use_class_token=True,
        use_mha_bias=True,
        use_mlp_bias=True,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        initializer_range=0.02,
    )
    qformer = M.BLIP2QFormer(
        num_query_tokens=4,
        **WIDTHS,
        num_heads=2,
        vision_dim=16,
        cross_attention_frequency=2,
        dropout=0.0,
        layer_norm_epsilon=1e-6,
    )
    opt = M.BLIP2CustomOPT(
        **ENCODER, num_query_tokens=4, dropout=0.0, max_sequence_length=POSITIONS, qformer_hidden_dim=16
    )
    return M.BLIP2Backbone(vision, qformer, opt)


def causal(name, backbone, **arguments):
    return lambda: getattr(M, name)(backbone=backbone(), preprocessor=None, **arguments)


def classifier(name, backbone, **arguments):
    return lambda: getattr(M, name)(backbone=backbone(), num_classes=3, preprocessor=None, **arguments)


def plain(name, arguments=ENCODER, **more):
    return lambda: getattr(M, name)(**arguments, **more)


def text(name):
    return lambda: bert_like(name)


RESNET = {"vd": "bottleneck_block_vd", "v1": "basic_block", "v2": "bottleneck_block"}

ENCODERS = {
    "AlbertBackbone": albert,
    "AlbertMaskedLM": causal("AlbertMaskedLM", albert),
    "AlbertTextClassifier": classifier("AlbertTextClassifier", albert),
    "BertBackbone": bert,
    "BertMaskedLM": causal("BertMaskedLM", bert),
    "BertTextClassifier": classifier("BertTextClassifier", bert),
    "BertTextEmbedder": causal("BertTextEmbedder", bert),
    "DebertaV3Backbone": deberta,
    "DebertaV3TextClassifier": classifier("DebertaV3TextClassifier", deberta),
    "DebertaV3MaskedLM": causal("DebertaV3MaskedLM", deberta),
    "DistilBertBackbone": text("DistilBertBackbone"),
    "DistilBertTextClassifier": classifier("DistilBertTextClassifier", text("DistilBertBackbone")),
    "DistilBertMaskedLM": causal("DistilBertMaskedLM", text("DistilBertBackbone")),
    "ElectraBackbone": electra,
    "ESMBackbone": esm,
    "ESMProteinClassifier": classifier("ESMProteinClassifier", esm),
    "ESMMaskedPLM": causal("ESMMaskedPLM", esm),
    "FNetBackbone": f_net,
    "FNetTextClassifier": classifier("FNetTextClassifier", f_net),
    "FNetMaskedLM": causal("FNetMaskedLM", f_net),
    "RobertaBackbone": text("RobertaBackbone"),
    "RobertaTextClassifier": classifier("RobertaTextClassifier", text("RobertaBackbone")),
    "RobertaMaskedLM": causal("RobertaMaskedLM", text("RobertaBackbone")),
    "RoformerV2Backbone": roformer,
    "RoformerV2TextClassifier": classifier("RoformerV2TextClassifier", roformer),
    "RoformerV2MaskedLM": causal("RoformerV2MaskedLM", roformer),
    "XLMRobertaBackbone": text("XLMRobertaBackbone"),
    "XLMRobertaTextClassifier": classifier("XLMRobertaTextClassifier", text("XLMRobertaBackbone")),
    "XLMRobertaTextEmbedder": causal("XLMRobertaTextEmbedder", text("XLMRobertaBackbone")),
    "XLNetBackbone": plain("XLNetBackbone"),
    "CLIPTextEncoder": plain("CLIPTextEncoder", TOWER),
    "MetaCLIP2TextEncoder": plain("MetaCLIP2TextEncoder", TOWER),
    "SigLIPTextEncoder": plain("SigLIPTextEncoder", TOWER),
}
"""Encoders of text, and tasks with them."""

DECODERS = {
    "BartBackbone": text("BartBackbone"),
    "BartSeq2SeqLM": causal("BartSeq2SeqLM", text("BartBackbone")),
    "BloomBackbone": plain("BloomBackbone"),
    "BloomCausalLM": causal("BloomCausalLM", plain("BloomBackbone")),
    "EdRecBackbone": edrec,
    "FalconBackbone": plain("FalconBackbone", {**WORDS, **WIDTHS, "num_attention_heads": 2}),
    "GemmaBackbone": plain("GemmaBackbone", GEMMA),
    "GemmaCausalLM": causal("GemmaCausalLM", plain("GemmaBackbone", GEMMA)),
    "Gemma3Backbone": plain("Gemma3Backbone", GEMMA, image_size=IMAGE),
    "Gemma3CausalLM": causal("Gemma3CausalLM", plain("Gemma3Backbone", GEMMA, image_size=IMAGE)),
    "Gemma3nBackbone": gemma_3n,
    "Gemma4Backbone": plain("Gemma4Backbone", GEMMA, image_size=IMAGE),
    "GPT2Backbone": text("GPT2Backbone"),
    "GPT2CausalLM": causal("GPT2CausalLM", text("GPT2Backbone")),
    "GPTNeoXBackbone": text("GPTNeoXBackbone"),
    "GPTNeoXCausalLM": causal("GPTNeoXCausalLM", text("GPTNeoXBackbone")),
    "GptOssBackbone": gpt_oss,
    "LlamaBackbone": plain("LlamaBackbone", GROUPED),
    "LlamaCausalLM": causal("LlamaCausalLM", plain("LlamaBackbone", GROUPED)),
    "Llama3Backbone": plain("Llama3Backbone", GROUPED),
    "MistralBackbone": plain("MistralBackbone", GROUPED),
    "MistralCausalLM": causal("MistralCausalLM", plain("MistralBackbone", GROUPED)),
    "MixtralBackbone": plain("MixtralBackbone", EXPERTS),
    "MoonshineBackbone": moonshine,
    "OPTBackbone": text("OPTBackbone"),
    "OPTCausalLM": causal("OPTCausalLM", text("OPTBackbone")),
    "Phi3Backbone": plain("Phi3Backbone", GROUPED),
    "Phi3CausalLM": causal("Phi3CausalLM", plain("Phi3Backbone", GROUPED)),
    "QwenBackbone": plain("QwenBackbone", GROUPED),
    "QwenCausalLM": causal("QwenCausalLM", plain("QwenBackbone", GROUPED)),
    "QwenMoeBackbone": lambda: qwen_moe("QwenMoeBackbone"),
    "Qwen3Backbone": plain("Qwen3Backbone", GEMMA),
    "Qwen3CausalLM": causal("Qwen3CausalLM", plain("Qwen3Backbone", GEMMA)),
    "Qwen3TextEmbedder": causal("Qwen3TextEmbedder", plain("Qwen3Backbone", GEMMA)),
    "Qwen3MoeBackbone": lambda: qwen_moe("Qwen3MoeBackbone"),
    "Qwen3_5Backbone": qwen_3_5,
    "Qwen3_5MoeBackbone": qwen_3_5_moe,
    "RWKV7Backbone": rwkv,
    "SmolLM3Backbone": smol_lm3,
    "T5Backbone": plain("T5Backbone"),
    "T5Seq2SeqLM": causal("T5Seq2SeqLM", plain("T5Backbone")),
    "T5GemmaBackbone": lambda: t5_gemma("T5GemmaBackbone"),
    "T5Gemma2Backbone": lambda: t5_gemma("T5Gemma2Backbone"),
    "WhisperBackbone": whisper,
}
"""Decoders of text, with and without an encoder, and tasks with them."""

VISIONARIES = {
    "CLIPVisionEncoder": plain("CLIPVisionEncoder", VISION),
    "MetaCLIP2VisionEncoder": plain("MetaCLIP2VisionEncoder", VISION),
    "SigLIPVisionEncoder": plain("SigLIPVisionEncoder", VISION),
    "Gemma3VisionEncoder": gemma_3_vision,
    "DeiTBackbone": deit,
    "DeiTImageClassifier": classifier("DeiTImageClassifier", deit),
    "DINOV2Backbone": dino_v2,
    "DINOV2Backbone with SwiGLU": lambda: dino(
        "DINOV2Backbone", position_embedding_shape=PHOTO, use_swiglu_ffn=True, num_register_tokens=2
    ),
    "DINOV3Backbone": lambda: dino("DINOV3Backbone"),
    "DINOV3Backbone with a gated MLP": lambda: dino("DINOV3Backbone", use_gated_mlp=True),
    "MiTBackbone": mit,
    "MiTImageClassifier": classifier("MiTImageClassifier", mit),
    "SwinTransformerBackbone": swin,
    "SwinTransformerImageClassifier": classifier("SwinTransformerImageClassifier", swin),
    "ViTBackbone": vit,
    "ViTImageClassifier": classifier("ViTImageClassifier", vit),
    "ViTDetBackbone": vit_det,
    "VideoPrismBackbone": video_prism,
}
"""Transformers of images."""

SEVERAL = {
    "BLIP2Backbone": blip2,
    "CLIPBackbone": lambda: clip_like("CLIPBackbone"),
    "MetaCLIP2Backbone": lambda: clip_like("MetaCLIP2Backbone"),
    "SigLIPBackbone": lambda: clip_like("SigLIPBackbone"),
    "PaliGemmaBackbone": pali_gemma,
    "PaliGemmaCausalLM": causal("PaliGemmaCausalLM", pali_gemma),
    "PARSeqBackbone": par_seq,
    "DepthAnythingBackbone": depth_anything,
    "SegFormerBackbone": lambda: M.SegFormerBackbone(mit(), 16),
    "SegFormerImageSegmenter": classifier("SegFormerImageSegmenter", lambda: M.SegFormerBackbone(mit(), 16)),
    "SAMBackbone": sam,
    "FluxBackbone": flux,
    "StableDiffusion3Backbone": stable_diffusion,
}
"""Networks of several kinds of inputs, or made of others."""

CONVOLUTIONAL = {
    "BASNetBackbone": bas_net,
    "CSPNetBackbone dark": lambda: csp_net("dark", "dark_block"),
    "CSPNetBackbone csp": lambda: csp_net("csp", "bottleneck_block", block_ratio=[0.5]),
    "CSPNetBackbone cs3": lambda: csp_net("cs3", "edge_block", block_ratio=[0.5]),
    "CSPNetImageClassifier": classifier("CSPNetImageClassifier", lambda: csp_net("dark", "dark_block")),
    "DeepLabV3Backbone": deep_lab,
    "DeepLabV3ImageSegmenter": classifier("DeepLabV3ImageSegmenter", deep_lab),
    "DenseNetBackbone": dense_net,
    "DenseNetImageClassifier": classifier("DenseNetImageClassifier", dense_net),
    "EfficientNetBackbone": efficient_net,
    "EfficientNetBackbone V2": efficient_net_v2,
    "EfficientNetImageClassifier": classifier("EfficientNetImageClassifier", efficient_net),
    "HGNetV2Backbone": hg_net,
    "HGNetV2ImageClassifier": classifier("HGNetV2ImageClassifier", hg_net, head_filters=32),
    "MobileNetBackbone": mobile_net,
    "MobileNetImageClassifier": classifier("MobileNetImageClassifier", mobile_net, num_features=32),
    "MobileNetV5Backbone": mobile_net_v5,
    "ResNetBackbone basic": resnet,
    "ResNetBackbone bottleneck V2": lambda: resnet("bottleneck_block", use_pre_activation=True),
    "ResNetBackbone VD": lambda: M.ResNetBackbone(
        input_conv_filters=[64, 64],
        input_conv_kernel_sizes=[3, 3],
        stackwise_num_filters=[64, 32],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="bottleneck_block_vd",
        image_shape=PHOTO,
    ),
    "ResNetImageClassifier": classifier("ResNetImageClassifier", resnet),
    "RetinaNetBackbone": retina_net,
    "RQVAEBackbone": rq_vae,
    "VAEBackbone": vae,
    "VGGBackbone": vgg,
    "VGGImageClassifier": classifier("VGGImageClassifier", vgg, pooling_hidden_dim=32),
    "XceptionBackbone": xception,
    "XceptionImageClassifier": classifier("XceptionImageClassifier", xception),
}
"""Networks of convolutions, and of dense layers."""

KINDS = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "vision": VISIONARIES,
    "several": SEVERAL,
    "convolutional": CONVOLUTIONAL,
}


LONGER = {
    "MoonshineBackbone": {"encoder_input_values": 1024, "encoder_padding_mask": 1024},
    "SigLIPTextEncoder": {"token_ids": POSITIONS},
    "SigLIPBackbone": {"token_ids": POSITIONS},
}
"""Sizes of open axes that are not LENGTH."""


def samples(name, model, rng, batch=2, open_axis=LENGTH):
    """Return a batch for a network, structured as its inputs, by their names and types."""

    def sample(x):
        length = LONGER.get(name, {}).get(x.name, open_axis)
        shape = [batch] + [n if n is not None else length for n in x.shape[1:]]
        if x.name.endswith("mask") and "vision" not in x.name:
            mask = np.ones(shape, x.dtype)
            mask[-1, shape[1] // 2 :] = 0
            return mask
        if x.name == "num_steps":
            return np.full(shape, 2, x.dtype)
        if "float" in x.dtype or "images" in x.name:
            return rng.normal(size=shape).astype("float32")
        return rng.integers(0, 2 if "segment" in x.name else LENGTH // 2, shape).astype(x.dtype)

    return keras.tree.map_structure(sample, model._inputs_struct)
