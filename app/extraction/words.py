"""Words, in many languages, that order the candidates of a reply. No word decides alone that something is an image.

A list has words and stems: `*` ends a stem, `_` is a blank. Where a script has no blanks between words, or attaches
articles to them, a word is found anywhere in the text. What a list does not contain is treated as an ordinary result.
"""

import re

#: The last character of the scripts with clear borders of words: Latin, Greek, Cyrillic and Armenian.
_LAST_WITH_BORDERS = "\u058f"


def compile_words(words: str) -> re.Pattern[str]:
    """Return a pattern that finds any of the words in a text."""
    patterns = []
    for word in words.split():
        stem = re.escape(word.rstrip("*").replace("_", " ")).replace("\\ ", "[ -]?")
        has_borders = word[0] <= _LAST_WITH_BORDERS
        patterns.append(rf"\b{stem}" + (r"\w*" if word.endswith("*") else r"\b") if has_borders else stem)
    return re.compile("|".join(patterns), re.IGNORECASE)


#: A smaller, earlier or blurred copy of the image.
PREVIEW_WORDS = compile_words(
    """
    preview* thumb thumbs thumbnail* draft* sketch partial miniature* small_version low_res* lowres* vorschau*
    miniatur* entwurf* vorabbild* kleinbild* skizze aperçu* apercu* vignette* ébauche* brouillon* prévisualis*
    vista_previa previsualiz* boceto* borrador* prévia* previa pré_visualiz* rascunho* esboço* anteprima anteprime
    bozza bozze voorbeeldweergave voorvertoning* miniatuur* schets* concept_versie podgląd* miniat* szkic* náhled*
    önizleme* küçük_resim* taslak* pratinjau* gambar_mini gambar_kecil xem_trước hình_thu_nhỏ ảnh_thu_nhỏ bản_nháp
    förhandsvisning* forhåndsvisning* utkast esikatselu* előnézet* previzualiz* превью предпросмотр* предварительн*
    миниатюр* эскиз* черновик* попередн* мініатюр* ескіз* προεπισκόπηση* μικρογραφία* 预览 预览图 預覽 缩略 縮略
    縮圖 缩图 小图 小圖 草稿 草图 草圖 略图 略圖 初稿 プレビュー サムネ 下書き ラフ 縮小版 미리보기 미리_보기
    썸네일 섬네일 초안 معاينة مصغرة مصغر مسودة پیش_نمایش पूर्वावलोकन थंबनेल थम्बनेल ตัวอย่าง ภาพย่อ ขนาดย่อ
    תצוגה_מקדימה תמונה_ממוזערת
    """
)
#: The still that stands for a video.
POSTER_WORDS = compile_words(
    """
    poster* cover first_frame last_frame key_frame keyframe titelbild* affiche couverture portada capa copertina
    locandina omslag okładk* kapak sampul ảnh_bìa обложк* постер* обкладинк* 封面 首帧 首幀 尾帧 尾幀 カバー 表紙
    ポスター 표지 포스터 غلاف कवर ปก
    """
)
#: The image before the change, or what the client sent for it.
INPUT_WORDS = compile_words(
    """
    references before input source reference uploaded previous* earlier user_upload* vorherig* précédent*
    anterior* precedent* vorige poprzedni* предыдущ* 上一版 旧版 舊版 以前の 이전 vorher eingabe* referenz*
    hochgeladen* ausgangsbild* avant entrée référence* antes entrada referencia referência voor_de przed wejści*
    önce girdi referans sebelum masukan referensi trước prima исходн* загруженн* вхідн* 修改前 编辑前 編輯前
    输入 輸入 上传 上傳 参考图 參考圖 変更前 編集前 入力 参考画像 수정_전 편집_전 입력 참고 قبل المدخلة पहले संदर्भ
    ก่อน 参考: 参考： you_sent you_uploaded you_provided your_photo_was:* your_image_was:* your_picture_was:*
    user_image user_photo user_picture
    """
)
#: The turns of a chat that a reply repeats. A user's turn alone is the prompt above the result.
USER_TURN = compile_words("user:* human:* 用户： 用户: 用户]")
ASSISTANT_TURN = compile_words("assistant:* ai:* 助手： 助手: 助手]")
#: The largest copy of the result, or the image before a change. Others that mean both: `UNCHANGED_WORDS`.
ORIGINAL_WORDS = compile_words(
    """
    original orijinal asli ảnh_gốc оригинал* 原始 원본 الأصلية मूल ต้นฉบับ
    """
)
#: Names of what was painted on the way to a result, by their number: "Step 2".
STEP_NAMES = re.compile(
    r"(?:step|iteration|attempt|round|stage|phase|schritt|étape|paso|passo|etapa|шаг|bước|步骤|ステップ|단계)\s?[1-9]",
    re.IGNORECASE,
)
#: Names of images that steer how a result is painted, or that are painted for such a use.
CONTROL_NAMES = re.compile(
    r"(?:mask|depth|normal(?= ?map)|canny|(?:open)?pose|style|control(?:net)?|edges?|segmentation|line ?art|scribble)"
    r"(?: (?:maps?|image|reference|ref|used|guide|\([\w ]{1,20}\))){0,3}"
    r"|蒙版|遮罩|深度图|法线图|线稿|姿势图|姿态图|骨架图|风格图|控制图|マスク|深度マップ|線画|마스크",
    re.IGNORECASE,
)
#: The image after a change and the one before it, where both are shown. Alone these words mean nothing.
CHANGED_WORDS = compile_words(
    """
    after edited modified retouched enhanced result nachher bearbeitet* ergebnis après modifié* résultat después
    editad* resultado depois dopo modificat* risultato na bewerkt* po edytowan* sonra düzenlenmiş sesudah hasil sau
    kết_quả после результат* після 修改后 修改後 编辑后 編輯後 处理后 處理後 效果图 效果圖 成品 编辑後 変更後 編集後
    加工後 완성 수정_후 편집_후 بعد बाद หลัง
    """
)
UNCHANGED_WORDS = compile_words("до 原图 原圖 元画像 元の画像 원래 до_изменени* до_обработки")
#: Images for another purpose: marks of the vendor, avatars, advertisements, similar images.
DECORATION_WORDS = compile_words(
    """
    ähnlich* simil* podobn* похож* recommended recommendations empfehlungen recommandations recomendaciones
    recomendações you_may_also_like more_from 猜你喜欢 猜你喜歡 推荐 推薦 おすすめ 추천 打赏 打賞 赞赏 logo icon avatar
    banner badge qr_code qr sponsor sponsored advert* ad ads werbung anzeige publicité
    publicidad publicidade pubblicità reclame reklam* reklama iklan quảng_cáo реклам* 类似 類似 示例 头像 頭像 图标
    圖標 入群 入qq群 加qq群 profile_pic* 支付宝 alipay scan_to* 扫一扫 promoted other_users* our_community
    广告 廣告 推广 推廣 赞助 贊助 二维码 二維碼 客服 広告 광고 إعلان विज्ञापन โฆษณา join_us follow_us
    相似 関連画像 parecid* semelhant* подібн* benzer* 비슷한
    example:* sample:* beispiel:* exemple:* ejemplo:* exemplo:* esempio:* voorbeeld:* пример:*
    subscribe donate buy_me_a_coffee patreon discord telegram телеграм* whatsapp wechat weixin 微信 关注 關注 フォロー
    """
)
#: Keys of JSON objects that hold the image, its link, or what a tool has made.
IMAGE_KEYS = compile_words(
    """
    bild bilder bildes imagen imágenes imagem imagens immagine immagini afbeelding* plaatje obraz* görsel* resim*
    gambar foto fotos photo ảnh hình* изображен* картин* рисун* фото зображен* малюн* 图 圖 画像 写真 絵 照片
    이미지 사진 그림 صورة الصورة صور تصویر תמונה तस्वीर छवि चित्र ภาพ รูป εικόνα obrázek kép kuva billede bild
    """
)
LINK_KEYS = compile_words(
    """
    enlace enlaces lien liens adresse dirección direccion endereço indirizzo koppeling odnośnik* bağlantı* tautan
    alamat liên_kết ссылк* адрес* посилан* 链接 鏈接 連結 链結 地址 网址 網址 リンク アドレス 링크 주소 رابط الرابط
    लिंक ลิงก์ קישור
    """
)
RESULT_KEYS = compile_words(
    """
    ergebnis* ausgabe* résultat* sortie resultado* salida saída risultat* resultaat uitvoer wynik* sonuç* hasil
    kết_quả результат* вывод 结果 結果 输出 輸出 内容 內容 出力 결과 출력 نتيجة النتيجة परिणाम ผลลัพธ์
    """
)
#: Names for the result beside other images.
RESULT_NAMES = re.compile(
    rf"{RESULT_KEYS.pattern}|\b(?:results?|final|output|finished)\b|最终|最終|完成图", re.IGNORECASE
)
#: A copy with the mark of a vendor over it, and what says that an image has none.
WATERMARKED = compile_words(
    """
    watermark* wasserzeichen* filigran* marca_de_agua marca_d'água marca_d’água watermerk* znak*_wodn* водян*_знак*
    vattenstämpel* 水印 浮水印 透かし ウォーターマーク 워터마크 علامة_مائية वॉटरमार्क ลายน้ำ
    """
)
UNMARKED = compile_words(
    """
    no without free clean ohne sans sin sem senza zonder bez без utan filigransız 无 無 没有 去 除 なし 無し 없 제거
    بدون बिना ไม่มี
    """
)
#: What announces the image: image, picture, result, download, here, done.
RESULT_WORDS = compile_words(
    """
    image images picture* photo photos artwork result* output download* generated here_is here_are here_you_go
    here's done created url link view final* bild* ergebnis* fertig* endfassung* imag* resultad* descarg* baix*
    aquí aqui ici voici télécharg* résultat* immagin* ecco scaric* risultat* afbeelding* plaatje hier obraz* oto
    pobierz* wynik* görsel* resim* işte indir* sonuç* gambar* berikut unduh* hasil* ảnh hình đây tải kết_quả
    изображен* картинк* рисун* результат* скача* вот зображен* готов* billed* kuva* obráz* kép* εικόνα* 图 圖 结果
    結果 下载 下載 查看 链接 連結 地址 完成 生成 画 畫 画像 写真 ダウンロード 이미지 그림 사진 결과 다운로드 صورة
    الصور صورتك تحميل تنزيل تصویر תמונה तस्वीर छवि चित्र इमेज डाउनलोड ภาพ รูป ดาวน์โหลด
    """
)
#: What sends the reader elsewhere: rules, payment, help, the state of a task, apologies.
ELSEWHERE_WORDS = compile_words(
    """
    see visit doc docs documentation guide* policy policies terms rule rules more similar search source reference
    status progress queue task can't can’t cannot unable sorry fail* error help support contact home_page homepage
    website notify details blog tutorial* pricing upgrade top_up recharge credit* subscribe conversation share chat
    log_in login sign_in sign_up regel* richtlinie* leider hilfe* règle* désolé* aide regl* norma* lo_siento ayuda
    regra* desculp* ajuda política* regol* spiacent* aiuto beleid* helaas zasad* regulamin* przepraszam* pomoc*
    kural* üzgün* yardım* aturan* maaf* bantuan* quy_định xin_lỗi правил* извин* к_сожалению помощ* политик* 官网
    官網 文档 文檔 教程 参考 參考 来源 來源 搜索 搜尋 类似 類似 群 政策 規則 规则 规范 規範 帮助 幫助 充值 儲值
    购买 購買 订阅 訂閱 反馈 详情 進度 进度 排队 查询 任务 抱歉 无法 無法 失败 失敗 错误 錯誤 联系 主页 网站 協議
    协议 对话 分享 できません 申し訳 利用規約 ポリシー ヘルプ 규정 정책 죄송 도움말 عذر سياسة قواعد नियम क्षमा माफ़
    ขออภัย กฎ
    """
)
#: What says that an image is not the result even if there is no other: its source, a search result, a code to scan.
UNRELATED_WORDS = re.compile(
    r"\b(?:search results?|image search|web search|courtesy of|on the (?:web|internet)"
    r"|from (?:the )?(?:web|internet|google|bing|wiki\w*))\b"
    # Names of places for photos, whose spelling is the same in all languages.
    r"|\b(?<!style of )(?:unsplash|pexels|pixabay|shutterstock|wikimedia)\b(?![ -]?(?:style|like|quality))"
    r"|来自(?:网络|互联网)|來自網路|网上找|(?:ウェブ|ネット)で見つ|인터넷에서 찾"
    r"|\b(?:sources?|ref(?:erence)?s?|citations?|quellen?|fuentes?|fonti?|fontes?|bronn?en?|źródł[oa]|kaynak|sumber|nguồn|источники?)"
    r"\s?[:：]|搜索结果|搜尋結果|(?:来源|來源|出典|출처|المصدر|स्रोत|ที่มา)\s?[:：]"
    # Links that an upstream could not read are those of the client. Others are for readers who cannot open the result.
    r"|^[ \t>*_#-]*(?:(?:error: ?|(?:i|we)(?: am| are| was| were)? )?"
    r"(?:could(?: not|n't|n’t)|fail(?:ed|ure)? to|unable to|error(?: while)?)|(?:i|we) can(?:not|'t|’t))"
    r" (?:download|fetch|retriev|read|process|decod|pars|edit)\w*"
    r"(?: (?:the|your|an?|input|reference|source|uploaded|provided|image|picture|photo|file|url|link|from|at)){0,5}"
    r":? *$"
    r"|无法(?:下载|读取|访问|处理|解析|识别|获取)(?:您|你)?(?:上传|提供|输入|参考)的?"
    r"(?:图片?|图像|照片|链接|文件|地址)?[:： ]*$"
    r"|出处|參考資料|参考资料|参考链接|扫码|加群|交流群|关注.{0,8}公众号",
    re.IGNORECASE,
)
#: Examples and documentation. Of an image that is shown, these words may repeat what it shows, so they count only
#: beside a better one.
EXAMPLE_WORDS = re.compile(
    r"\b(?:for example|e\.g\.|see also|read more|learn more|powered by)\b|documentation|例如|比如|文档|教程|公众号",
    re.IGNORECASE,
)
#: Sizes in which one image is offered, by rank. Words that stand alone in a label or at the end of a name.
SIZE_WORDS = (
    compile_words("xs tiny mini icon thumb thumbnail winzig minuscule"),
    compile_words(
        """
        s sm small low lowres klein* petit petite pequeñ* pequen* piccol* kleine mał* küçük kecil nhỏ маленьк* мал*
        мале* 小 小图 小圖 작은 소형 صغير صغيرة छोटा छोटी เล็ก
        """
    ),
    compile_words(
        """
        m md mid medium middle regular sd
        mittel* moyen* median* médi* medi* gemiddeld* średni* orta sedang vừa trung_bình
        средн* 中 中图 中圖 중간 متوسط متوسطة मध्यम กลาง
        """
    ),
    compile_words(
        """
        l lg large big high groß* gross* grand* grande* grot* duż* büyük besar lớn больш* велик* 大 大图 大圖 高清
        큰 대형 كبير كبيرة बड़ा बड़ी ใหญ่
        """
    ),
    compile_words(
        """
        xl xxl full full_size full_resolution full_res original orig hd uhd hires highres max raw vollbild* voll*
        original* taille_réelle pleine* completa completo completo* volledig* pełn* tam* penuh đầy_đủ gốc полн*
        оригинал* 原图 原圖 原寸 原始尺寸 高解像度 フル 원본 الأصلي मूल เต็ม
        """
    ),
)
